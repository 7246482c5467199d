//! `cargo run --release --example fuzz -- INPUTS [SEED]`: gives so many hostile inputs to the parsers and to a live
//! service, while an honest client reads beside them. Ends with an error if one of its reads is wrong or anything
//! panics.

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/service/client.rs"]
mod client;
#[allow(dead_code, reason = "as above")]
#[path = "../tests/service/hostile.rs"]
mod hostile;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.replace('_', "").parse::<u64>());
    let inputs = arguments.next().and_then(Result::ok).expect("usage: fuzz INPUTS [SEED]");
    let seed = arguments.next().and_then(Result::ok).unwrap_or(1);
    let report = hostile::fuzz(seed, hostile::Until::Inputs(inputs));
    println!("{report}");
    report.check();
}
