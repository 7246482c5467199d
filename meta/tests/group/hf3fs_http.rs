//! The HTTP surface, as SGLang's server answers. Each answer here was taken from it, but for those where it breaks
//! (500).

use serde_json::{Value, json};

use crate::client::{Client, Response};
use crate::cluster::Cluster;

async fn one() -> (Cluster, Client) {
    let cluster = Cluster::started(1).await;
    let client = Client::new(&cluster, 1, "/0");
    (cluster, client)
}

fn detail(response: &Response) -> Value {
    serde_json::from_str::<Value>(&response.body).unwrap()["detail"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_sglangs_server() {
    let (_cluster, mut client) = one().await;
    let missing = client.post("exists", &json!({ "keys": ["a"] })).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.header("content-type"), Some("application/json"));
    assert_eq!(missing.body, r#"{"detail":"Rank 0 namespace 'kv' not initialized. Please call /0/initialize first."}"#);
    let initialized = client.post("initialize", &json!({ "num_pages": 4 })).await;
    assert_eq!((initialized.status, initialized.body.as_str()), (204, ""));
    assert_eq!(initialized.header("content-type"), None);
    for (operation, body, status, answer) in [
        ("initialize", json!({ "num_pages": 4, "namespace": "kv" }), 204, ""),
        ("exists", json!({ "keys": [] }), 200, r#"{"exists":[]}"#),
        ("reserve_and_allocate_page_indices", json!({ "keys": [] }), 200, r#"{"indices":[]}"#),
        ("get_page_indices", json!({ "keys": [] }), 200, r#"{"indices":[]}"#),
        (
            "reserve_and_allocate_page_indices",
            json!({ "keys": [["a", ""], ["b", null]] }),
            200,
            r#"{"indices":[[false,3],[false,2]]}"#,
        ),
        ("confirm_write", json!({ "written_keys_to_confirm": [["a", 3]], "pages_to_release": [2] }), 204, ""),
        ("confirm_write", json!({}), 204, ""),
        ("exists", json!({ "keys": ["a", "b"], "namespace": "kv" }), 200, r#"{"exists":[true,false]}"#),
        ("get_page_indices", json!({ "keys": ["a"] }), 200, r#"{"indices":[3]}"#),
        ("get_page_indices", json!({ "keys": ["a", "z"] }), 200, r#"{"indices":[null,null]}"#),
        ("reserve_and_allocate_page_indices", json!({ "keys": [["a", ""]] }), 200, r#"{"indices":[[true,3]]}"#),
        ("delete_keys", json!({ "keys": ["a", "never"] }), 204, ""),
        ("exists", json!({ "keys": ["a"] }), 200, r#"{"exists":[false]}"#),
        ("clear", json!({}), 204, ""),
    ] {
        let response = client.post(operation, &body).await;
        assert_eq!((response.status, response.body.as_str()), (status, answer), "{operation} {body}");
        if status == 200 {
            assert_eq!(response.header("content-type"), Some("application/json"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unknown_or_wrong_is_said() {
    let (_cluster, mut client) = one().await;
    client.initialize(4).await;
    for (method, path) in [
        ("POST", "/"),
        ("GET", "/"),
        ("POST", "/0"),
        ("POST", "/0/nope"),
        ("POST", "/0/EXISTS"),
        ("POST", "//0/exists"),
        ("GET", "/nope"),
        ("POST", "/a/b/0/exists"),
        ("POST", "/1%2F2/3/exists"),
    ] {
        let response = client.request(method, path, b"").await;
        assert_eq!((response.status, response.body.as_str()), (404, r#"{"detail":"Not Found"}"#), "{method} {path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"] {
        for path in ["/0/exists", "/abc/exists"] {
            let response = client.request(method, path, b"").await;
            assert_eq!((response.status, response.body.as_str()), (405, r#"{"detail":"Method Not Allowed"}"#));
            assert_eq!(response.header("allow"), Some("POST"));
        }
    }
    let head = client.request("HEAD", "/0/exists", b"").await;
    assert_eq!((head.status, head.header("content-length")), (405, Some("31")));
    let body = br#"{"keys":["a"]}"#;
    for path in ["/0/exists?x=1", "/%30/exi%73ts", "/0%2Fexists", "/+0/exists", "/0.0/exists", "/%200/exists"] {
        assert_eq!(client.request("POST", path, body).await.body, r#"{"exists":[false]}"#, "{path}");
    }
    let redirected = client.request("POST", "/0/exists/?x=1", body).await;
    assert_eq!((redirected.status, redirected.header("location")), (307, Some("http://meta/0/exists?x=1")));
    let response = client.request("POST", "/abc/exists", body).await;
    let expected = r#"{"detail":[{"type":"int_parsing","loc":["path","rank"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"abc"}]}"#;
    assert_eq!((response.status, response.body.as_str()), (422, expected));
    assert_eq!(client.request("POST", "/abc/exists", b"nope").await.body, expected, "the rank comes first");
    let response = client.request("POST", "/no%20model/0/exists", body).await;
    assert_eq!(response.status, 422);
    assert!(detail(&response).as_str().unwrap().starts_with("deployment: expected"), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_break_sglangs_server_are_unprocessable() {
    let (_cluster, mut client) = one().await;
    client.initialize(4).await;
    for (operation, body, says) in [
        ("exists", "nope", "body: expected a JSON object"),
        ("clear", "", "body: expected a JSON object"),
        ("confirm_write", "[]", "body: expected a JSON object, got a list"),
        ("exists", "{}", "keys: expected a list"),
        ("exists", r#"{"keys":["a","b","c",7]}"#, "keys[3]: expected a string, got 7"),
        ("delete_keys", r#"{"keys":["a"],"namespace":5}"#, "namespace: expected a string, got 5"),
        ("get_page_indices", r#"{"keys":[["a"]]}"#, "keys[0]: expected a string, got a list"),
        ("reserve_and_allocate_page_indices", r#"{"keys":[["a"]]}"#, "keys[0]: expected [key, prefix_key]"),
        ("confirm_write", r#"{"pages_to_release":[1.5]}"#, "pages_to_release[0]: expected a whole number, got 1.5"),
        ("initialize", "{}", "num_pages: expected"),
        ("initialize", r#"{"num_pages":0,"namespace":"x"}"#, "num_pages: expected 1 to"),
        ("initialize", r#"{"num_pages":5,"namespace":""}"#, "namespace: expected"),
    ] {
        let path = format!("/0/{operation}");
        let response = client.request("POST", &path, body.as_bytes()).await;
        assert_eq!(response.status, 422, "{operation} {body}: {response:?}");
        assert!(detail(&response).as_str().unwrap().starts_with(says), "{response:?}");
    }
    // A file that is unknown is unknown first, as there: but for exists, which reads its keys before.
    let response = client.request("POST", "/7/reserve_and_allocate_page_indices", b"{}").await;
    assert_eq!(response.status, 404);
    assert_eq!(client.request("POST", "/7/exists", b"{}").await.status, 422);
    let large = vec![b' '; (8 << 20) + 1];
    let response = client.request("POST", "/0/exists", &large).await;
    assert_eq!((response.status, detail(&response)), (413, json!("body: expected at most 8388608 bytes")));
    assert_eq!(client.exists(&["a"]).await, [false], "the connection lives on");
    let other = client.post("initialize", &json!({ "num_pages": 5 })).await;
    let says = "num_pages: expected 4, as rank 0 namespace 'kv' was initialized, got 5";
    assert_eq!((other.status, detail(&other)), (409, json!(says)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_no_file_has_are_counted_and_ignored() {
    let (cluster, mut client) = one().await;
    client.initialize(4).await;
    let body = json!({
        "written_keys_to_confirm": [["a", -1], ["b", 4], ["c", 0]],
        "pages_to_release": [-1, 99, u64::MAX, 3],
    });
    assert_eq!(client.post("confirm_write", &body).await.status, 204);
    let status = cluster.status(1).await.hf3fs.unwrap();
    assert_eq!((status.files[0].ignored_confirms, status.files[0].ignored_releases), (3, 4));
    assert_eq!(client.exists(&["a", "b", "c"]).await, [false; 3]);
}
