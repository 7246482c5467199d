//! Compiles wire/*.proto with protox, so that no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire");
    // What a pass names as extern it does not generate: the common messages need a pass of their own.
    let common = protox::compile(["common.proto"], ["wire"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(common)?;
    let services = protox::compile(["meta.proto", "raft.proto", "page_files.proto", "node.proto"], ["wire"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".foreword.common.v1", "crate::wire::common")
        .compile_fds(services)?;
    Ok(())
}
