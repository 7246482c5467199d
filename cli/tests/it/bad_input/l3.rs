//! L3 directories that an agent must not touch.

use serde_json::{Value, json};

use super::live::{Live, spec};
use super::run::{Server, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_refuses_an_l3_directory_that_is_not_its_clusters() {
    let mut live = Live::start(spec(1, 1)).await;
    let dir = live.cluster.dir().to_owned();
    let ours = live.stats().await.cluster_id.to_string();
    let meta = format!("--meta={}", live.meta_endpoint(1));
    let node = ["node", "--name=second", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--arena-bytes=16MiB", &meta];
    let with_l3 = |root: &std::path::Path| format!("--l3=posix:{}", root.display());

    let root = dir.join("second-l3");
    let flag = with_l3(&root);
    let start = [&node[..], &[&flag]].concat();
    run(&start).await.refused(1, "l3", &[&root.display().to_string()]);
    std::fs::create_dir(&root).unwrap();
    run(&start).await.refused(1, "l3", &[&ours, "meta init"]);

    // Another cluster's directory: both are named.
    let data_dir = format!("--data-dir={}", dir.join("other").display());
    let init = ["meta", "init", "--json", &data_dir, "--peers=1=127.0.0.1:1", &flag, "--l3-bytes=64MiB"];
    let made: Value = serde_json::from_str(&run(&init).await.succeeded().stdout).unwrap();
    let theirs = made["cluster_id"].as_str().unwrap().to_owned();
    run(&start).await.refused(1, "l3", &[&ours, &theirs]);
    let copied = root.join(&ours);
    std::fs::create_dir(&copied).unwrap();
    run(&start).await.refused(1, "l3", &[&ours]);
    std::fs::copy(root.join(&theirs).join("CLUSTER"), copied.join("CLUSTER")).unwrap();
    run(&start).await.refused(1, "cluster_id", &[&ours, &theirs]);

    // Our own mark, with one field changed.
    let mark: Value =
        serde_json::from_slice(&std::fs::read(dir.join("l3").join(&ours).join("CLUSTER")).unwrap()).unwrap();
    let changed = |field: &str, value: Value| {
        let mut mark = mark.clone();
        mark[field] = value;
        std::fs::write(copied.join("CLUSTER"), mark.to_string()).unwrap();
    };
    changed("chunk_bytes", json!(65_536));
    run(&start).await.refused(1, "chunk_bytes", &["4096", "65536"]);
    changed("chunk_bytes", json!(5000));
    run(&start).await.refused(1, "chunk_bytes", &["5000"]);
    changed("format", json!(2));
    run(&start).await.refused(2, "format_version", &["expected 1", "CLUSTER has 2"]);
    std::fs::write(copied.join("CLUSTER"), "{").unwrap();
    run(&start).await.refused(1, "CLUSTER", &["JSON"]);
    // A directory of that name is never adopted by a new cluster, nor with another chunk.
    let id = format!("--cluster-id={ours}");
    let third = format!("--data-dir={}", dir.join("third").display());
    let init = ["meta", "init", &third, "--peers=1=127.0.0.1:1", &flag, "--l3-bytes=64MiB", &id];
    changed("chunk_bytes", json!(65_536));
    run(&init).await.refused(2, "l3.chunk_bytes", &["4096", "65536"]);

    changed("chunk_bytes", json!(4096));
    std::fs::create_dir(copied.join("slabs")).unwrap();
    let mut server = Server::start(&start, &dir.join("logs/second.log")).await;
    server.ready().await;
    live.works("foreign L3 directories").await;
}
