//! The replicated KV on three real nodes without databases: through any node, and through the death
//! of the leader.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tonic::transport::Endpoint;
use wolfscale::wire::{self, kv_client::KvClient};

use crate::nodes::{Nodes, SOON, Sender, details};

const ROUNDS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_and_read_through_any_node() {
    let nodes = Nodes::founded(3, "").await;
    let mut clients = [nodes.client(0).await, nodes.client(1).await, nodes.client(2).await];
    for round in 0..ROUNDS {
        let put = wire::KvPutRequest {
            key: "key".into(),
            value: round.to_string().into(),
            ..Default::default()
        };
        let put = clients[round % 3].put(put).await.expect("is set").into_inner();
        // At once, through another node: it sees what was acknowledged, without any luck.
        let get = wire::KvGetRequest { key: "key".into(), ..Default::default() };
        let reader = (round + 1 + round / 3 % 2) % 3;
        let got = clients[reader].get(get).await.expect("answers").into_inner();
        let pair = got.pair.unwrap_or_default();
        assert_eq!(pair.value, round.to_string(), "round {round} through n{}", reader + 1);
        assert_eq!(pair.revision, put.applied.expect("always there").revision);
        assert!(got.revision >= pair.revision);
    }
    let revision = nodes.done(&[0], &["get", "key"]).await["pair"]["revision"].to_string();
    let (code, conflict) = nodes.kv(&[1], &["cas", "key", "no", "--expect", "1"]).await;
    let conflict: Value = serde_json::from_str(&conflict).expect("JSON");
    assert_eq!((code, &conflict["succeeded"]), (4, &false.into()));
    assert_eq!(conflict["previous_revision"].to_string(), revision);
    let set = nodes.done(&[2], &["cas", "key", "yes", "--expect", &revision]).await;
    assert_eq!(set["succeeded"], true);
    let after = set["revision"].to_string();
    let got = nodes.done(&[1], &["get", "key", "--after", &after]).await;
    assert_eq!(got["pair"]["value"]["text"], "yes");

    nodes.done(&[1], &["put", "kez", "2"]).await;
    let page = nodes.done(&[2], &["range", "k", "--limit", "1"]).await;
    let next = page["next"].as_str().expect("there is more");
    let rest = nodes.done(&[2], &["range", "k", "--cursor", next]).await;
    assert_eq!(
        (&page["pairs"][0]["key"]["text"], &rest["pairs"][0]["key"]["text"]),
        (&"key".into(), &"kez".into())
    );
    nodes.done(&[0], &["delete", "key"]).await;
    assert_eq!(nodes.kv(&[1], &["get", "key"]).await.0, 4);

    // Without a token nothing is told.
    let channel = Endpoint::from_shared(format!("http://{}", nodes.endpoint(0)));
    let channel = channel.expect("an address").connect().await.expect("connects");
    let refused = KvClient::new(channel).get(wire::KvGetRequest::default()).await;
    assert_eq!(refused.expect_err("no token").code(), tonic::Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_happens_once_through_the_death_of_the_leader() {
    const REQUESTS: u64 = 60;
    let mut nodes = Nodes::founded(3, "").await;
    let sender = Sender::open(&nodes, 1).await;
    let (mut kills, mut again) = (0, 0);
    for number in 1..=REQUESTS {
        let first = usize::try_from(number).expect("small") % 3;
        let dies = number % 20 == 10;
        let leader = if dies { nodes.leader().await } else { 0 };
        if dies {
            // The last one that died counts again: else the third would be the half of a pair.
            nodes.until_count(leader, 0..3).await;
        }
        // On its way while the leader dies: nobody knows what became of it, and it is sent again.
        let (one, two) = (sender.clone(), sender.clone());
        let sent = tokio::spawn(async move { one.put("k", number, first).await });
        let twice = tokio::spawn(async move { two.put("k", number, first + 1).await });
        if dies {
            nodes.kill(leader);
            kills += 1;
        }
        let (done, same) = (sent.await.expect("joins"), twice.await.expect("joins"));
        assert_eq!(done.revision, same.revision, "request {number} has two revisions");
        again += u64::from(done.repeated) + u64::from(same.repeated);
        if dies {
            nodes.start(leader);
        }
    }
    assert!(kills == 3 && again >= REQUESTS, "{kills} kills, {again} answers of earlier attempts");

    for index in 0..3 {
        let get = wire::KvGetRequest { key: "k".into(), ..Default::default() };
        let got = nodes.client(index).await.get(get).await.expect("answers").into_inner();
        let pair = got.pair.expect("is there");
        assert_eq!(pair.value, REQUESTS.to_string(), "n{} is linearizable", index + 1);
    }
    // Every change that there ever was, of each node's own history.
    for index in 0..3 {
        let watch = wire::KvWatchRequest { from_revision: 1, ..Default::default() };
        let mut told = nodes.client(index).await.watch(watch).await.expect("begins").into_inner();
        let mut values: Vec<u64> = Vec::new();
        while values.last() != Some(&REQUESTS) {
            let message = told.message().await.expect("goes on").expect("goes on");
            let text = |event: &wire::KvEvent| event.value.clone().expect("only puts").to_vec();
            let number = |event| String::from_utf8(text(event)).expect("text").parse::<u64>();
            values.extend(message.events.iter().map(|event| number(event).expect("a number")));
        }
        assert_eq!(values, (1..=REQUESTS).collect::<Vec<_>>(), "n{}", index + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_everywhere_and_a_watch_tells_it() {
    let nodes = Nodes::founded(3, "").await;
    let (mut one, mut two) = (nodes.client(0).await, nodes.client(1).await);
    let watch = wire::KvWatchRequest { from: "l".into(), to: "m".into(), from_revision: 0 };
    let mut told = two.watch(watch).await.expect("begins").into_inner();
    let begun = told.message().await.expect("begins").expect("begins");
    assert!(begun.events.is_empty(), "it says that it has begun");

    let began = Instant::now();
    let grant = wire::KvLeaseGrantRequest { lease_id: 0, ttl_ms: 1_000, request: None };
    let lease_id = two.lease_grant(grant).await.expect("opens").into_inner().lease_id;
    let put = |key: &'static str, lease_id| wire::KvPutRequest {
        key: key.into(),
        value: "v".into(),
        lease_id,
        request: None,
    };
    let set = one.put(put("leased", lease_id)).await.expect("is set").into_inner();
    let set = set.applied.expect("always there").revision;
    one.put(put("other", 0)).await.expect("is set");
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(told.message().await.expect("goes on").expect("goes on").events);
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let seen: Vec<_> = events.iter().map(|e| (&e.key[..], e.value.is_some(), e.lease_id)).collect();
    assert_eq!(seen, [(&b"leased"[..], true, lease_id), (&b"leased"[..], false, lease_id)]);
    assert_eq!((events[0].revision, events[1].previous_revision), (set, set));
    let get = wire::KvGetRequest { key: "leased".into(), ..Default::default() };
    assert_eq!(one.get(get).await.expect("answers").into_inner().pair, None);
    let keep = wire::KvLeaseKeepAliveRequest { lease_id, request: None };
    let failed = two.lease_keep_alive(keep).await.expect_err("it has ended");
    assert_eq!(details(&failed).code(), wire::kv_error::Code::LeaseUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_an_expired_session_is_rejected_as_such() {
    let nodes = Nodes::founded(3, "").await;
    let mut client = nodes.client(2).await;
    let open = wire::KvSessionOpenRequest { session: Bytes::new(), ttl_ms: 1_000 };
    let session = client.session_open(open).await.expect("opens").into_inner().session;
    let deadline = Instant::now() + SOON;
    let failed = loop {
        let request = Some(wire::KvRequestId { session: session.clone(), number: 1 });
        let put = wire::KvPutRequest { key: "k".into(), request, ..Default::default() };
        match client.put(put).await {
            Err(failed) => break failed,
            Ok(_) => assert!(Instant::now() < deadline, "it never expires"),
        }
    };
    let error = details(&failed);
    assert_eq!(failed.code(), tonic::Code::FailedPrecondition);
    assert_eq!(error.code(), wire::kv_error::Code::SessionUnknown);
    assert_eq!((error.happened(), error.may_retry), (wire::kv_error::Happened::No, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_kv_does_each_thing_and_tells_by_its_exit_code() {
    let nodes = Nodes::founded(3, "").await;
    let lease = nodes.done(&[1], &["lease", "grant", "--ttl", "60s"]).await["lease_id"].to_string();
    let session = nodes.done(&[2], &["session", "open", "--ttl", "1m"]).await;
    let session = session["session"].as_str().expect("hex").to_owned();
    let put = ["put", "a", "1", "--lease", &lease, "--session", &session, "--request", "1"];
    let first = nodes.done(&[0], &put).await;
    let again = nodes.done(&[1], &put).await;
    assert_eq!((&first["repeated"], &again["repeated"]), (&false.into(), &true.into()));
    assert_eq!(first["revision"], again["revision"]);
    let got = nodes.done(&[2], &["get", "a", "--stale"]).await;
    assert_eq!(got["pair"]["lease_id"].to_string(), lease);

    nodes.done(&[0], &["session", "keep-alive", &session, "--answered", "1"]).await;
    assert_eq!(nodes.kv(&[0], &put).await.0, 4, "its answer is forgotten");
    nodes.done(&[0], &["session", "close", &session]).await;
    assert_eq!(nodes.kv(&[0], &["session", "keep-alive", &session]).await.0, 4);

    nodes.done(&[0], &["lease", "keep-alive", &lease]).await;
    let revoked = nodes.done(&[2], &["lease", "revoke", &lease]).await;
    assert_eq!(revoked["removed_keys"], 1);
    assert_eq!(nodes.kv(&[0], &["lease", "keep-alive", &lease]).await.0, 4);
    let (code, told) = nodes.kv(&[1], &["watch", "a", "--from", "1", "--count", "2"]).await;
    let told: Vec<Value> = told.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!((code, told.len()), (0, 2));
    assert_eq!(told[0]["value"]["text"], "1");
    assert!(told[1]["value"].is_null(), "{told:?}");
    assert_eq!(nodes.kv(&[0], &["put", "", "x"]).await.0, 1, "no key");
    assert_eq!(nodes.kv(&[0], &["put", "a", "x", "--session", &session]).await.0, 2, "usage");
}
