//! The binary: what it says of bad input, and a small demo.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn foreword(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_foreword")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the binary on a configuration file.
fn with_config(args: &[&str], text: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("foreword.toml");
    std::fs::write(&path, text).unwrap();
    let mut all = args.to_vec();
    all.extend(["--config", path.to_str().unwrap()]);
    foreword(&all)
}

#[test]
fn a_bad_configuration_names_field_file_and_line() {
    let node = "[node]\nnode = \"a\"\nmeta = [\"127.0.0.1:1\"]\nl3 = \"memory\"\n";
    let cases: [(&[&str], &str, &str, &str); 11] = [
        (&["node"], "[node\n", "node: ", "foreword.toml:1"),
        (&["node"], "[mata]\n", "mata: ", "foreword.toml:1"),
        (&["node"], &format!("{node}arena = 1\n"), "node.arena: ", "foreword.toml:5"),
        (&["node"], &format!("{node}arena_bytes = \"12 bananas\"\n"), "node.arena_bytes: ", "foreword.toml:5"),
        (&["node"], &format!("{node}arena_bytes = 1\n"), "node.arena_bytes: ", "foreword.toml:5"),
        (&["node"], "[node]\nnode = \"a\"\n", "node.meta: ", "missing field"),
        (&["node", "--l3", "nfs:/x"], node, "node.l3: ", "nfs:/x"),
        (&["node", "--l3", "usrbio:/"], node, "node.l3: ", "3FS"),
        (&["node", "--l3", "auto:/no/such"], node, "node.l3: ", "/no/such"),
        (&["meta", "run"], "[meta]\ndata_dir = \"/nowhere/at/all\"\n", "meta.data_dir: ", "foreword.toml:2"),
        (
            &["meta", "run"],
            "[meta]\ndata_dir = \"/\"\nheartbeat_ms = \"1h\"\n",
            "meta.heartbeat_ms: ",
            "foreword.toml:3",
        ),
    ];
    for (args, text, field, says) in cases {
        let output = with_config(args, text);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {said}");
        assert!(said.contains(field) && said.contains(says), "{text:?}: expected {field:?} and {says:?} in {said}");
    }
}

#[test]
fn a_bad_flag_is_a_usage_error() {
    for args in [
        &["node", "--arena-bytes", "many"][..],
        &["meta", "init", "--data-dir", "/d", "--peers", "1:x", "--l3", "posix:/", "--l3-bytes", "1GiB"],
        &["demo", "--l3-bytes", "75 bananas"],
        &["demo", "--shards", "0"],
        &["demo", "--l3", "nfs"],
        &["demo", "--l3", "usrbio,lib=relative"],
        &["demo", "--fault", "eio=2%"],
        &["demo", "--kill-l3"],
        &["demo", "--replicas", "1"],
        &["get", "--agent", "unix:/x", "--model", "m", "--shard-bytes", "1", "--key", "abc"],
    ] {
        let output = foreword(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
    command.args(["meta", "run", "--data-dir", "/nowhere/at/all"]);
    for variable in ["FOREWORD_META_CLUSTER_ID", "FOREWORD_META_LISTEN", "FOREWORD_CONFIG", "FOREWORD_LOG"] {
        command.env(variable, "");
    }
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert!(output.status.code() == Some(2) && said.contains("data_dir: "), "{said}");
    let required =
        Command::new(env!("CARGO_BIN_EXE_foreword")).arg("status").env("FOREWORD_META", "").output().unwrap();
    assert!(stderr(&required).contains("required"), "{}", stderr(&required));
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands: [&[&str]; 13] = [
        &[],
        &["demo"],
        &["replay"],
        &["meta", "init"],
        &["meta", "run"],
        &["meta", "add"],
        &["meta", "remove"],
        &["meta", "replace"],
        &["node"],
        &["status"],
        &["lookup"],
        &["get"],
        &["put"],
    ];
    for command in commands {
        let mut args = command.to_vec();
        args.push("--help");
        let output = foreword(&args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("Example"), "{command:?}: {said}");
    }
}

fn init(dir: &Path, extra: &[&str]) -> Output {
    let l3 = format!("posix:{}", dir.display());
    let data_dir = dir.join("meta-1");
    let mut args = vec!["meta", "init", "--json", "--data-dir", data_dir.to_str().unwrap(), "--l3", &l3];
    args.extend(["--l3-bytes", "64MiB", "--peers", "1=127.0.0.1:1"]);
    args.extend(extra);
    foreword(&args)
}

#[test]
fn meta_init_makes_a_directory_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = init(dir.path(), &[]);
    assert!(first.status.success(), "{}", stderr(&first));
    let made: Value = serde_json::from_slice(&first.stdout).unwrap();
    let cluster_id = made["cluster_id"].as_str().unwrap();
    assert!(dir.path().join(cluster_id).join("CLUSTER").is_file());
    let again = init(dir.path(), &[]);
    assert!(!again.status.success());
    assert!(stderr(&again).contains("data_dir: "), "{}", stderr(&again));
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(init(dir.path(), &[]).status.success());
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = held.local_addr().unwrap().to_string();
    let data_dir = dir.path().join("meta-1");
    let output = foreword(&["meta", "run", "--data-dir", data_dir.to_str().unwrap(), "--listen", &listen]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("listen") && said.contains(&listen), "{said}");
}

#[test]
fn a_small_demo_proves_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let output =
        foreword(&["demo", "--requests", "120", "--page-bytes", "8192", "--l1-bytes", "8MiB", "--dir", at, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let last = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    let report: Value = serde_json::from_str(&last).unwrap();
    for none in ["wrong_bytes", "publishes_lost", "publishes_refused"] {
        assert_eq!(report[none], 0, "{none} in {last}");
    }
    assert!(report["outage_ms"].is_u64(), "{last}");
    let (got, best) = (report["hit_ratio"].as_f64().unwrap(), report["ideal_hit_ratio"].as_f64().unwrap());
    assert!((got - best).abs() <= 0.005, "{last}");
    assert!(report["cross_node_hits"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}
