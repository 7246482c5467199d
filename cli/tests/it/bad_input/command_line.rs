//! Commands given wrong arguments, or nobody to talk to.

use super::live::{Live, SHARD_BYTES, spec};
use super::run::{run, run_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_name_what_is_wrong() {
    let mut live = Live::start(spec(1, 1)).await;
    let dir = live.cluster.dir().to_owned();
    let agent = format!("--agent={}", live.cluster.agent_endpoints()[0]);
    let meta = format!("--meta={}", live.meta_endpoint(1));
    let shards = format!("--shard-bytes={},{}", SHARD_BYTES[0], SHARD_BYTES[1]);
    let namespace = ["--model=bad-input", "--page-tokens=16", &shards];
    let name = "--opaque=by the command line";
    let file = |bytes: u64| {
        let path = dir.join(format!("page-{bytes}"));
        std::fs::write(&path, vec![7; bytes as usize]).unwrap();
        path.display().to_string()
    };
    let (whole, short) = (file(SHARD_BYTES.iter().sum()), file(100));
    let command = |verb: &'static str, rest: &[&str]| -> Vec<String> {
        [&[verb, agent.as_str()], &namespace[..], rest].concat().into_iter().map(str::to_owned).collect()
    };
    async fn of(args: Vec<String>) -> super::run::Ended {
        run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    of(command("get", &["--key=xyz"])).await.refused(2, "key", &["xyz"]);
    of(command("get", &["--key=00"])).await.refused(2, "key", &["64 hexadecimal digits"]);
    of(command("get", &[])).await.refused(2, "key", &[]);
    of(command("get", &[name])).await.not_there();
    of(command("put", &[name, &short])).await.refused(2, "file", &["8000", "100"]);
    of(command("put", &[name, "/nowhere/page"])).await.refused(2, "file", &["/nowhere/page"]);
    of(command("put", &[name, "--parent=xyz", &whole])).await.refused(2, "parent", &["xyz"]);
    of(command("put", &[name, &whole])).await.succeeded();
    of(command("get", &[name, &format!("--out={}", file(0))])).await.succeeded();
    of(command("lookup", &["--key=xyz"])).await.refused(2, "key", &["xyz"]);
    of(command("lookup", &[])).await.refused(2, "keys", &[]);
    of(command("lookup", &["--tokens=-1"])).await.refused(2, "tokens", &["-1"]);
    of(command("lookup", &[name])).await.succeeded();

    // The same name with other sizes, and a namespace that is none.
    let other = [agent.as_str(), "--model=bad-input", "--page-tokens=16", "--shard-bytes=4096,4096", name];
    run(&[&["lookup"][..], &other].concat()).await.refused(1, "namespace.shard_bytes", &[]);
    let other = [agent.as_str(), "--model=bad-input", "--page-tokens=32", &shards, name];
    run(&[&["lookup"][..], &other].concat()).await.refused(1, "namespace.page_tokens", &["page_tokens 16"]);
    let none = [agent.as_str(), "--model=m", "--page-tokens=0", "--shard-bytes=4096", name];
    run(&[&["lookup"][..], &none].concat()).await.refused(2, "namespace.page_tokens", &[]);
    run(&["lookup", &agent, "--namespace=/nowhere/n.json", name]).await.refused(2, "namespace", &["/nowhere/n.json"]);
    run(&["lookup", &agent, "--model=m", name]).await.refused(2, "shard_bytes", &[]);

    // Nobody there.
    for args in [&["status", "--meta=127.0.0.1:1"][..], &["status", &meta, "--meta=127.0.0.1:1"]] {
        run(args).await.refused(1, "meta 127.0.0.1:1", &[]);
    }
    run(&["status", "--agent=unix:/nowhere.sock"]).await.refused(1, "node unix:/nowhere.sock", &[]);
    run(&["status", "--meta=nowhere"]).await.refused(2, "meta", &["nowhere"]);
    run(&["status"]).await.refused(2, "meta", &[]);
    run(&["status", &meta, &agent]).await.succeeded();
    let gone = ["get", "--agent=unix:/nowhere.sock", "--model=m", "--shard-bytes=4096", name];
    run(&gone).await.refused(1, "agent unix:/nowhere.sock", &[]);

    // A cluster that cannot be.
    let data_dir = format!("--data-dir={}", dir.join("new").display());
    let l3 = format!("--l3=posix:{}", dir.join("l3").display());
    let init = |rest: &[&'static str]| {
        let base = ["meta", "init", &data_dir, &l3].map(str::to_owned);
        base.into_iter().chain(rest.iter().map(|arg| (*arg).to_owned())).collect::<Vec<_>>()
    };
    let peers = "--peers=1=127.0.0.1:1";
    let room = "--l3-bytes=1MiB";
    of(init(&["--peers=nobody", room])).await.refused(2, "peers", &["nobody"]);
    of(init(&["--peers=1=h:1,1=h:2", room])).await.refused(2, "peers", &[]);
    of(init(&["--peers=1=h:1,2=h:2", room])).await.refused(2, "data_dir", &[]);
    of(init(&[peers, "--l3-bytes=much"])).await.refused(2, "l3_bytes", &["much"]);
    of(init(&[peers, room, "--chunk-bytes=5000"])).await.refused(2, "chunk_bytes", &["5KB"]);
    of(init(&[peers, room, "--slab-bytes=2MiB"])).await.refused(2, "slab_bytes", &[]);
    of(init(&[peers, room, "--lease=50ms"])).await.refused(2, "lease", &["1s", "50ms"]);
    of(init(&[peers, "--l3-bytes=0"])).await.refused(2, "l3_bytes", &["4096"]);
    of(init(&[peers, room, "--hf3fs-protection=2h"])).await.refused(2, "hf3fs_protection", &["3600s"]);
    of(init(&["--peers=1=http://h:1", room])).await.refused(2, "peers", &["http://h:1"]);
    of(init(&["--peers=1=127.0.0.1:0", room])).await.refused(2, "peers", &["127.0.0.1:0"]);
    let twice = of([init(&["--peers=1=h:1,2=h:2", room]), vec![data_dir.clone()]].concat()).await;
    twice.refused(2, "data_dir", &["twice"]);
    of(init(&[peers, room, "--cluster-id=xyz"])).await.refused(2, "cluster_id", &["xyz"]);
    of(init(&[peers, room, "--replica-id=2"])).await.refused(2, "replica_id", &["got 2"]);
    assert!(!dir.join("new").exists(), "a refused init leaves no directory");
    of(init(&["--peers=1=h:1,2=H:1", room])).await.refused(2, "peers", &["H:1", "1 and 2"]);
    of(init(&[peers, room])).await.succeeded();
    ids_belong_to_one_directory(&mut live).await;
    live.works("wrong commands").await;
}

/// A used id with an empty directory would be a voter without memory, or lead alone.
async fn ids_belong_to_one_directory(live: &mut Live) {
    let (dir, ours) = (live.cluster.dir().to_owned(), live.stats().await.cluster_id);
    let data_dir = format!("--data-dir={}", dir.join("anew").display());
    let (l3, id) = (format!("--l3=posix:{}", dir.join("l3").display()), format!("--cluster-id={ours}"));
    let init = ["meta", "init", &data_dir, &l3, "--l3-bytes=1MiB", &id];
    let again = [&init[..], &["--peers=1=127.0.0.1:1"]].concat();
    run(&again).await.refused(2, "replica_id", &["REPLICA-1", "meta-1"]);
    // A second machine: with other settings, and where L3 is not mounted.
    let peers = format!("--peers=1={},2=127.0.0.1:1", live.meta_endpoint(1));
    let second = ["meta", "init", &data_dir, &id, "--replica-id=2", &peers];
    let unmounted = dir.join("unmounted");
    std::fs::create_dir(&unmounted).unwrap();
    let other_l3 = format!("--l3=posix:{}", unmounted.display());
    let there = [&second[..], &[&other_l3, "--l3-bytes=1MiB"]].concat();
    run(&there).await.refused(2, "l3", &[&ours.to_string(), "mounted"]);
    let alone = [&init[..], &["--peers=9=127.0.0.1:1"]].concat();
    run(&alone).await.refused(2, "peers", &["REPLICA-1", "got 9=127.0.0.1:1"]);
    let join = format!("--join={}", live.meta_endpoint(1));
    run(&["meta", "init", &data_dir, "--replica-id=1", &join]).await.refused(2, "replica_id", &["replica 1"]);
    assert!(!dir.join("anew").exists(), "a refused init leaves no directory");

    // Nobody votes under another's endpoint, however it is spelled.
    let (meta, own) = (format!("--meta={}", live.meta_endpoint(1)), live.meta_endpoint(1).to_string());
    let add = async |endpoint: &str| {
        let endpoint = format!("--endpoint={endpoint}");
        run(&["meta", "add", &meta, "--replica-id=2", &endpoint]).await
    };
    add(&own).await.refused(1, "endpoint", &["replica 1's"]);
    add(&own.replace("127.0.0.1", "localhost")).await.refused(1, "endpoint", &["replica 1 answers there"]);
    // Dropping is said twice, and what is dropped is gone.
    run(&["meta", "namespaces", &meta, "--drop=1"]).await.refused(2, "yes", &["namespace 1"]);
    run(&["meta", "page-files", &meta, "--drop=1"]).await.refused(2, "yes", &["page file 1"]);
    run(&["meta", "namespaces", &meta, "--drop=99", "--yes"]).await.refused(1, "namespace_id", &["99"]);
    run(&["meta", "page-files", &meta, "--drop=99", "--yes"]).await.refused(1, "page_file_id", &["99"]);
    run(&["meta", "namespaces", &meta]).await.succeeded();
    run(&["meta", "page-files", &meta]).await.succeeded();
    run(&["meta", "leader", &meta, "--to=2"]).await.refused(1, "to", &["got 2"]);
    run(&["meta", "leader", &meta, "--to=1"]).await.succeeded();
}

#[tokio::test]
async fn a_bench_names_what_is_wrong() {
    run(&["bench", "--only=speed"]).await.refused(2, "only", &["publish_pages_per_s", "speed"]);
    run(&["bench", "--runs=0"]).await.refused(2, "runs", &[]);
    run(&["bench", "--floors=/nowhere/floors"]).await.refused(2, "floors", &["/nowhere/floors"]);
    run(&["bench", "prepare", "--data-dir=/nowhere/at/all"]).await.refused(2, "data_dir", &["/nowhere/at/all"]);
}

#[tokio::test]
async fn a_number_of_threads_that_is_none_is_named() {
    for threads in ["0", "abc"] {
        run_with(&["status", "--meta=127.0.0.1:1"], &[("TOKIO_WORKER_THREADS", threads)]).await.refused(
            2,
            "TOKIO_WORKER_THREADS",
            &[threads],
        );
    }
}
