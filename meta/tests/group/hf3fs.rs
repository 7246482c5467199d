//! SGLang's hf3fs metadata calls on a whole group: through any replica, across leaders, with many clients.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::client::Client;
use crate::cluster::Cluster;

fn names(prefix: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}{number}")).collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Reserves a key again and again until it gets a page.
async fn page_of(cluster: &Cluster, client: &mut Client, key: &str) -> i64 {
    for _ in 0..3000 {
        match client.reserve(&[key]).await[0] {
            (false, -1) => tokio::time::sleep(Duration::from_millis(20)).await,
            (false, page) => return page,
            (true, page) => panic!("{key} has page {page} already"),
        }
    }
    panic!("{key} never got a page: {:?}", cluster.status(cluster.leader().await).await.hf3fs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_answers_every_call() {
    let cluster = Cluster::started(3).await;
    for replica in [1, 2, 3] {
        for base in [format!("/{replica}"), format!("/model-{replica}/0")] {
            let mut client = Client::new(&cluster, replica, &base);
            client.initialize(64).await;
            for round in 0..10 {
                let keys = names(&format!("r{round}-"), 0..4);
                let keys = texts(&keys);
                let pages = client.reserve(&keys).await;
                assert!(pages.iter().all(|(there, page)| !there && *page >= 0), "{pages:?}");
                assert_eq!(client.exists(&keys).await, [false; 4]);
                let written: Vec<_> = keys.iter().copied().zip(pages.iter().map(|(_, page)| *page)).collect();
                client.confirm(&written, &[]).await;
                // At once, through the same replica.
                assert_eq!(client.exists(&keys).await, [true; 4], "replica {replica}, round {round}");
                let told: Vec<_> = pages.iter().map(|(_, page)| Some(*page as u32)).collect();
                assert_eq!(client.get(&keys).await, told);
                let again: Vec<_> = pages.iter().map(|(_, page)| (true, *page)).collect();
                assert_eq!(client.reserve(&keys).await, again);
            }
            client.ok("delete_keys", &json!({ "keys": ["r0-0", "r0-1"] })).await;
            assert_eq!(client.exists(&["r0-0", "r0-1", "r0-2"]).await, [false, false, true]);
            assert_eq!(client.get(&["r0-0", "r0-2"]).await[0], None);
            client.ok("clear", &json!({})).await;
            assert_eq!(client.exists(&["r0-2", "r9-3"]).await, [false; 2]);
            assert_eq!(client.get(&["r0-2"]).await, [None]);
        }
    }
    // Pools, ranks and deployments share nothing.
    let mut client = Client::new(&cluster, 1, "/model-1/0");
    client.write(&["own"]).await;
    let mut other = Client::new(&cluster, 2, "/model-2/0");
    assert_eq!(other.exists(&["own"]).await, [false]);
    let pool = other.post("exists", &json!({ "keys": ["own"], "namespace": "mamba" })).await;
    assert_eq!(pool.status, 404);
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_twice_is_done_once() {
    let cluster = Cluster::started(3).await;
    let mut client = Client::new(&cluster, cluster.follower().await, "/0");
    client.initialize(8).await;
    let first = client.reserve(&["a", "b", "a"]).await;
    assert_eq!(first[0], first[2], "twice in one batch");
    assert_ne!(first[0], first[1]);
    let mut other = Client::new(&cluster, cluster.leader().await, "/0");
    assert_eq!(other.reserve(&["b", "a"]).await, [first[1], first[0]], "the second writer gets the first one's page");
    let (a, b) = (first[0].1, first[1].1);
    for _ in 0..2 {
        client.confirm(&[("a", a)], &[b]).await;
    }
    // Not its reservation; not reserved at all.
    client.confirm(&[("c", a), ("b", b), ("z", 0)], &[a, 0]).await;
    assert_eq!(client.get(&["a"]).await, [Some(a as u32)]);
    assert_eq!(client.get(&["b", "c", "z"]).await, [None; 3]);
    let status = cluster.converged().await.hf3fs.unwrap();
    let file = &status.files[0];
    assert_eq!((file.confirmed, file.reserved, file.resting), (1, 0, 1));
    assert_eq!((file.ignored_confirms, file.ignored_releases), (3, 3));
    let leader = cluster.leader().await;
    assert_eq!(cluster.status(leader).await.hf3fs.unwrap().protection_ms, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_between_reserve_and_confirm_loses_nothing() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let mut client = Client::new(&cluster, leader, "/0");
    client.initialize(8).await;
    let pages = client.reserve(&["a", "b"]).await;
    cluster.crash(leader).await;
    let mut client = Client::new(&cluster, follower, "/0");
    assert_eq!(client.reserve(&["b", "a"]).await, [pages[1], pages[0]], "a retry gets the same pages");
    client.confirm(&[("a", pages[0].1), ("b", pages[1].1)], &[]).await;
    assert_eq!(client.exists(&["a", "b"]).await, [true, true]);
    assert_eq!(client.get(&["b"]).await, [Some(pages[1].1 as u32)]);
    // And of all: what was acknowledged is there again.
    for id in cluster.running.keys().copied().collect::<Vec<_>>() {
        cluster.crash(id).await;
    }
    cluster.start_all().await;
    for replica in [1, 2, 3] {
        let mut client = Client::new(&cluster, replica, "/0");
        assert_eq!(client.get(&["a"]).await, [Some(pages[0].1 as u32)]);
        assert_eq!(client.exists(&["a", "b"]).await, [true, true]);
    }
    assert_eq!(cluster.converged().await.hf3fs.unwrap().files[0].ignored_confirms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_a_reader_was_told_of_is_not_given_to_another() {
    const PROTECTION: Duration = Duration::from_secs(2);
    let mut cluster = Cluster::new(3).await;
    cluster.hf3fs_protection_ms = PROTECTION.as_millis() as u64;
    cluster.start_all().await;
    let mut client = Client::new(&cluster, cluster.follower().await, "/0");
    client.initialize(4).await;
    let pages = client.write(&["a", "b", "c", "d"]).await;
    // The office is old enough: whoever is evicted now is so because nobody protects it. The least recently written
    // goes.
    assert_eq!(page_of(&cluster, &mut client, "e").await, pages[0]);
    client.confirm(&[("e", pages[0])], &[]).await;
    let reading = Instant::now();
    let told = client.get(&["c", "e", "d", "b"]).await;
    assert_eq!(told, [Some(pages[2] as u32), Some(pages[0] as u32), Some(pages[3] as u32), Some(pages[1] as u32)]);
    assert_eq!(cluster.status(cluster.leader().await).await.hf3fs.unwrap().protected_pages, Some(4));
    let page = page_of(&cluster, &mut client, "f").await;
    assert!(reading.elapsed() >= PROTECTION, "granted after {:?}", reading.elapsed());
    assert_eq!(page, pages[2], "the least recently read");
    assert_eq!(client.get(&["c", "f"]).await, [None, None]);
    let leader = cluster.leader().await;
    let status = cluster.status(leader).await.hf3fs.unwrap();
    assert_eq!(status.files[0].evicted, 2);
    assert!(status.files[0].no_page > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_evicts_nothing_for_a_whole_protection() {
    const PROTECTION: Duration = Duration::from_secs(3);
    let mut cluster = Cluster::new(3).await;
    cluster.hf3fs_protection_ms = PROTECTION.as_millis() as u64;
    cluster.start_all().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut client = Client::new(&cluster, follower, "/0");
    client.initialize(2).await;
    client.write(&["a", "b"]).await;
    let page = page_of(&cluster, &mut client, "c").await;
    client.confirm(&[("c", page)], &[]).await;
    let dying = Instant::now();
    cluster.crash(leader).await;
    page_of(&cluster, &mut client, "d").await;
    assert!(dying.elapsed() >= PROTECTION, "granted after {:?}", dying.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_is_an_answer() {
    let cluster = Cluster::started(3).await;
    let mut client = Client::new(&cluster, cluster.follower().await, "/0");
    client.initialize(2).await;
    let pages = client.reserve(&["a", "b", "c", "a"]).await;
    assert_eq!(pages[2], (false, -1), "all are reserved: {pages:?}");
    assert_eq!(pages[0], pages[3]);
    assert!(pages[0].1 >= 0 && pages[1].1 >= 0 && pages[0] != pages[1]);
    client.confirm(&[("a", pages[0].1), ("c", -1)], &[-1]).await;
    assert_eq!(client.exists(&["a", "b", "c"]).await, [true, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_of_which_nothing_is_heard_end() {
    let mut cluster = Cluster::new(3).await;
    cluster.hf3fs_reservation_ms = 500;
    cluster.start_all().await;
    let mut client = Client::new(&cluster, cluster.follower().await, "/0");
    client.initialize(2).await;
    let lost = client.reserve(&["a", "b"]).await;
    let page = page_of(&cluster, &mut client, "c").await;
    client.confirm(&[("c", page), ("a", lost[0].1), ("b", lost[1].1)], &[]).await;
    assert_eq!(client.exists(&["a", "b", "c"]).await, [false, false, true], "a late writer is not heard");
    let file = cluster.converged().await.hf3fs.unwrap().files.remove(0);
    assert_eq!((file.expired, file.ignored_confirms), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_once_never_share_a_page() {
    const CLIENTS: usize = 16;
    let cluster = Cluster::started(3).await;
    Client::new(&cluster, 1, "/0").initialize(2048).await;
    let mut writing = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::new(&cluster, number as u64 % 3 + 1, "/0");
        writing.spawn(async move {
            let mut pages = Vec::new();
            for round in 0..10 {
                // Half of a batch is everybody's.
                let mut keys = names(&format!("r{round}-c{number}-"), 0..4);
                keys.extend(names(&format!("r{round}-all-"), 0..4));
                for (key, (_, page)) in keys.iter().zip(client.reserve(&texts(&keys)).await) {
                    pages.push((key.clone(), page));
                }
                let written: Vec<_> =
                    pages[pages.len() - 8..].iter().map(|(key, page)| (key.as_str(), *page)).collect();
                client.confirm(&written, &[]).await;
            }
            pages
        });
    }
    let mut owners = BTreeMap::new();
    for (key, page) in writing.join_all().await.into_iter().flatten() {
        assert!(page >= 0);
        let owner = owners.entry(page).or_insert_with(|| key.clone());
        assert_eq!(*owner, key, "page {page} has two owners");
    }
    assert_eq!(owners.len(), CLIENTS * 40 + 40);
    let file = cluster.converged().await.hf3fs.unwrap().files.remove(0);
    assert_eq!((file.confirmed, file.reserved), (owners.len() as u64, 0));
    assert_eq!((file.ignored_confirms, file.evicted), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    let mut cluster = Cluster::new(3).await;
    cluster.hf3fs_reservation_ms = 500;
    cluster.start_all().await;
    let mut client = Client::new(&cluster, cluster.follower().await, "/0");
    client.initialize(32).await;
    let first = names("first-", 0..32);
    client.write(&texts(&first)).await;
    let mut at_leader = Client::new(&cluster, cluster.leader().await, "/0");
    for round in 0..40 {
        let keys: Vec<_> = names(&format!("gone-{round}-"), 0..4).into_iter().map(|key| (key, "")).collect();
        let client = if round % 2 == 0 { &mut client } else { &mut at_leader };
        client.send_and_leave("reserve_and_allocate_page_indices", &json!({ "keys": keys })).await;
    }
    // Whatever they reserved ends and rests; nothing stays picked, and no room stays promised.
    let all = names("all-", 0..32);
    cluster
        .eventually("every page for new keys", async || {
            client.reserve(&texts(&all)).await.iter().all(|(_, page)| *page >= 0).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_metrics_tell() {
    let cluster = Cluster::started(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut client = Client::new(&cluster, follower, "/m/3");
    client.initialize(8).await;
    client.write(&["a"]).await;
    client.get(&["a"]).await;
    client.post("initialize", &json!({ "num_pages": 9 })).await;
    let status = cluster.converged().await.hf3fs.unwrap();
    assert_eq!((status.protection_ms, status.reservation_ms), (100, 60_000));
    let file = &status.files[0];
    assert_eq!((file.deployment.as_str(), file.rank, file.pool.as_str(), file.pages), ("m", 3, "kv", 8));
    assert_eq!((file.confirmed, file.reserved, file.resting, file.unused), (1, 0, 0, 7));
    assert_eq!(cluster.status(follower).await.hf3fs.unwrap().protected_pages, None);
    assert!(cluster.status(leader).await.hf3fs.unwrap().protected_pages.is_some());
    for (operation, code) in [("get_page_indices", 200), ("confirm_write", 204), ("initialize", 409)] {
        let name = format!(r#"foreword_meta_hf3fs_requests_total{{operation="{operation}",status="{code}"}}"#);
        assert_eq!(cluster.counter(follower, &name), 1, "{name}");
    }
}

/// An engine that starts while nobody leads is not kept from it: its page file is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_page_file_is_initialized_without_a_leader() {
    let mut cluster = Cluster::started(3).await;
    let left = cluster.follower().await;
    let mut client = Client::new(&cluster, left, "/m/0");
    client.initialize(8).await;
    for id in (1..=3).filter(|id| *id != left) {
        cluster.crash(id).await;
    }
    client.initialize(8).await;
    let other = client.post("initialize", &json!({ "num_pages": 9 })).await;
    assert_eq!(other.status, 409, "nor told that another size will do");
}
