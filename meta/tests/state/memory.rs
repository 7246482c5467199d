//! What a page costs, in a state of many.

use crate::examples::Cluster;

const AT_LEAST: f64 = 52.0;
const AT_MOST: f64 = 64.0;

/// After churn, with small buckets whose sizes differ by a tenth.
const AT_MOST_AFTER_CHURN: f64 = 66.0;

fn assert_bytes_per_page(cluster: &Cluster, when: &str, at_most: f64) {
    let pages = cluster.state.pages();
    let per_page = cluster.state.heap_bytes() as f64 / pages as f64;
    println!("{when}, {pages} pages: {per_page:.1} B a page");
    assert!((AT_LEAST..=at_most).contains(&per_page), "{when}, {pages} pages: {per_page:.1} B a page");
}

/// Where the position tables are full, where they have just doubled, and in between; at 1 M they are as full as at
/// 500,000 (59.9 B a page, measured once).
#[test]
fn a_page_takes_at_most_64_bytes() {
    let mut cluster = Cluster::with_slots(550_000);
    for pages in [200_000, 240_000, 300_000, 430_000, 475_000, 500_000] {
        cluster.fill(pages);
        assert_bytes_per_page(&cluster, "filled", AT_MOST);
    }
}

/// Pages that come and go leave nothing behind.
#[test]
fn churn_does_not_grow_the_index() {
    let mut cluster = Cluster::with_slots(410_000);
    cluster.fill(400_000);
    for round in 0..10 {
        cluster.delete_oldest(20_000);
        cluster.tick(1000);
        // One tick releases only so many slots.
        while cluster.state.next_release_ms().is_some_and(|ms| ms <= cluster.state.tick_ms()) {
            cluster.tick(0);
        }
        cluster.fill(400_000);
        if round % 5 == 4 {
            assert_bytes_per_page(&cluster, "after churn", AT_MOST_AFTER_CHURN);
        }
    }
}
