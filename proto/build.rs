//! Compiles wire/*.proto with protox, so that no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common.proto", "meta.proto", "raft.proto", "node.proto"];
    println!("cargo:rerun-if-changed=wire");
    let descriptors = protox::compile(files, ["wire"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".foreword.common.v1", "crate::wire::common")
        .compile_fds(descriptors)?;
    Ok(())
}
