//! A seed is one run: in any process, whatever is printed of it; and whatever differs shows in its digest.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use foreword_sim::cli::case::Case;
use foreword_sim::profiles::Profile;
use foreword_sim::run::{Options, Report, SECONDS_MIN, simulate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// For so long a process gets no processor: longer than any work may take before somebody says that it took long.
const STOPPED: Duration = Duration::from_millis(270);
/// Between two stops, of the few seconds that a seed takes.
const RUNS: Duration = Duration::from_millis(20);
/// Stops of one run. Where one read of real time in ten matters, hardly any run of so many hides it.
const STOPS: usize = 30;

fn case(seed: u64) -> Case {
    Case::new(seed, Profile::of(seed), SECONDS_MIN)
}

fn here(options: Options) -> Report {
    let report = simulate(options);
    assert_ne!(report.trace_digest, "", "it came to its end");
    report
}

fn sim(case: &Case) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(["--json", "--seed", &case.seed.to_string(), "--profile", case.profile.name]);
    command.args(["--seconds", &case.seconds.to_string()]);
    command
}

/// Runs the seed in a process of its own, which may print every line.
fn elsewhere(case: &Case, trace: bool) -> Value {
    told(case, trace, sim(case).args(trace.then_some("--trace")).output().unwrap())
}

/// The same in a process that others keep from running again and again.
fn starved(case: &Case) -> Value {
    let mut process = sim(case).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&process);
    for _ in 0..STOPS {
        pause(RUNS);
        // Its id is its own until it was waited for.
        if process.try_wait().unwrap().is_some() {
            break;
        }
        kill_process(pid, Signal::STOP).unwrap();
        pause(STOPPED);
        kill_process(pid, Signal::CONT).unwrap();
    }
    told(case, false, process.wait_with_output().unwrap())
}

#[expect(clippy::disallowed_methods, reason = "another process is made to wait, nobody waits for it")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn told(case: &Case, trace: bool, output: Output) -> Value {
    let status = output.status;
    assert!(status.code().is_some(), "{case}: {status}; SIGSEGV: \"Determinism\" in docs/SIMULATION.md");
    assert_eq!(output.stderr.is_empty(), !trace, "{}", String::from_utf8_lossy(&output.stderr));
    let line = output.stdout.strip_suffix(b"\n").unwrap();
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{case}: {error}: {}", String::from_utf8_lossy(line)))
}

/// What must be equal whenever the seed is.
fn identity(report: &Value) -> Value {
    let mut report = report.clone();
    let fields = report.as_object_mut().unwrap();
    for of_this_machine in ["wall_ms", "commit", "replay"] {
        fields.remove(of_this_machine);
    }
    report
}

#[test]
fn a_seed_is_the_same_run_in_every_process() {
    for seed in [2, 4, 8] {
        let case = case(seed);
        let report = here(case.options().unwrap());
        assert!(report.faults.values().sum::<u64>() > 3 && report.totals.pages_published > 10, "{case}: {report:?}");
        let first = elsewhere(&case, false);
        assert_eq!(first["trace_digest"], report.trace_digest, "replay: {case}");
        assert_eq!(identity(&first), identity(&elsewhere(&case, false)), "replay: {case}");
        assert_eq!(identity(&first), identity(&serde_json::to_value(&report).unwrap()), "replay: {case}");
    }
}

#[test]
fn a_process_that_gets_no_processor_for_a_while_is_the_same_run() {
    let case = case(2);
    assert_eq!(identity(&starved(&case)), identity(&elsewhere(&case, false)), "replay: {case}");
}

#[test]
fn printing_the_trace_does_not_change_it() {
    let case = case(7);
    assert_eq!(identity(&elsewhere(&case, true)), identity(&elsewhere(&case, false)), "replay: {case}");
}

#[test]
fn one_byte_of_one_message_is_another_digest() {
    let case = case(9);
    let intact = here(case.options().unwrap());
    for parcel in [1, 50, 1_000] {
        let damaged = here(Options { damage_parcel: Some(parcel), ..case.options().unwrap() });
        assert_ne!(damaged.trace_digest, intact.trace_digest, "parcel {parcel} of: {case}");
    }
    // There are fewer messages than that: then nothing is damaged.
    let untouched = here(Options { damage_parcel: Some(u64::MAX), ..case.options().unwrap() });
    assert_eq!(untouched.trace_digest, intact.trace_digest, "replay: {case}");
}

#[test]
fn a_fault_less_is_another_digest() {
    let case = case(6);
    let all = here(case.options().unwrap());
    let mut schedule = all.schedule.clone();
    schedule.pop().expect("the seed has faults");
    let fewer = here(Options { schedule: Some(schedule), ..case.options().unwrap() });
    assert_ne!(fewer.trace_digest, all.trace_digest, "replay: {case}");
    let again = here(Options { schedule: Some(all.schedule.clone()), ..case.options().unwrap() });
    assert_eq!(again.trace_digest, all.trace_digest, "replay: {case}");
}
