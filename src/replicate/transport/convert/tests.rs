//! Every message comes back as it went; everything else is an error, never a panic.

use proptest::{collection::vec, option, prelude::*};
use prost::Message as _;

use super::*;

fn node_ids() -> impl Strategy<Value = NodeId> {
    "[a-z0-9.-]{1,63}".prop_map(|text| text.parse().expect("valid"))
}

fn terms() -> impl Strategy<Value = Term> {
    (any::<u64>(), node_ids()).prop_map(|(number, leader)| Term { number, leader })
}

fn positions() -> impl Strategy<Value = Position> {
    (option::of(terms()), any::<u64>()).prop_map(|(term, lsn)| Position { term, lsn: Lsn(lsn) })
}

fn entries() -> impl Strategy<Value = Arc<Entry>> {
    let request = option::of((any::<[u8; 16]>(), any::<u64>()));
    let part = (any::<u32>(), any::<bool>());
    let body = vec(any::<u8>(), 0..300);
    (terms(), any::<u64>(), 1u8..=7, part, request, any::<[u8; 32]>(), body).prop_map(
        |(term, lsn, kind, (index, last), request, chain, body)| {
            Arc::new(Entry {
                term,
                lsn: Lsn(lsn),
                kind: EntryKind::from_u8(kind).expect("1 to 7 are kinds"),
                part: Part { index, last },
                request: request.map(|(session, number)| RequestId { session, number }),
                chain: ChainHash(chain),
                body: body.into(),
            })
        },
    )
}

fn runs() -> impl Strategy<Value = Run> {
    (any::<[u8; 32]>(), vec(entries(), 0..4))
        .prop_map(|(chain, entries)| Run { chain: ChainHash(chain), entries })
}

fn results<T: std::fmt::Debug>(
    ok: impl Strategy<Value = T>,
) -> impl Strategy<Value = Result<T, Position>> {
    (any::<bool>(), ok, positions())
        .prop_map(|(fine, ok, hint)| if fine { Ok(ok) } else { Err(hint) })
}

fn heartbeats() -> impl Strategy<Value = Message> {
    let marks = (any::<u64>(), any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<u8>(), any::<u64>());
    let cluster = option::of(any::<[u8; 16]>());
    (option::of(terms()), flags, any::<u64>(), positions(), marks, cluster).prop_map(
        |(
            term,
            (leads, eligible, database, behind),
            sent_at,
            durable,
            (committed, released, applied),
            cluster,
        )| {
            Message::Heartbeat(Heartbeat {
                term,
                leads,
                sent_at: Moment(sent_at),
                durable,
                committed: Lsn(committed),
                released: Lsn(released),
                applied: Lsn(applied),
                eligible,
                cluster: cluster.map(ClusterId),
                database,
                behind,
            })
        },
    )
}

fn votes() -> impl Strategy<Value = Message> {
    let founding = option::of((any::<[u8; 32]>(), option::of("[0-9,-]{0,20}"), any::<bool>()));
    let promise = (terms(), any::<bool>(), any::<u64>(), positions(), founding).prop_map(
        |(term, granted, seen, last, founding)| {
            let founding = founding.map(|(plan, db_position, never_leader)| Founding {
                plan,
                db_position,
                never_leader,
            });
            Message::Promise(Promise { term, granted, seen, last, founding })
        },
    );
    let reply = (any::<u64>(), any::<bool>(), any::<u64>(), any::<bool>()).prop_map(
        |(number, granted, seen, stands)| {
            Message::PreVoteReply(PreVoteReply { number, granted, seen, stands })
        },
    );
    prop_oneof![
        (any::<u64>(), any::<bool>())
            .prop_map(|(number, handover)| Message::PreVote(PreVote { number, handover })),
        reply,
        (terms(), any::<bool>())
            .prop_map(|(term, handover)| Message::Prepare(Prepare { term, handover })),
        promise,
        terms().prop_map(|term| Message::Handover { term }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    let append = (terms(), positions(), runs(), any::<u64>(), any::<u64>()).prop_map(
        |(term, previous, run, committed, released)| {
            let (committed, released) = (Lsn(committed), Lsn(released));
            Message::Append(Append { term, previous, run, committed, released })
        },
    );
    let fetched = (terms(), positions(), results(runs()), positions()).prop_map(
        |(term, after, result, last)| Message::Fetched(Fetched { term, after, result, last }),
    );
    let heartbeat_reply =
        (option::of(terms()), any::<u64>(), any::<bool>()).prop_map(|(term, sent_at, follows)| {
            Message::HeartbeatReply(HeartbeatReply { term, sent_at: Moment(sent_at), follows })
        });
    let appended = results(any::<u64>().prop_map(Lsn));
    prop_oneof![
        heartbeats(),
        heartbeat_reply,
        votes(),
        append,
        fetched,
        (terms(), positions()).prop_map(|(term, after)| Message::Fetch(Fetch { term, after })),
        (terms(), appended).prop_map(|(term, result)| Message::Appended(Appended { term, result })),
    ]
}

fn sender(node: NodeId, incarnation: u64) -> Identity {
    Identity {
        node,
        incarnation: Incarnation(incarnation),
        run: [1; 16],
        cluster: None,
        address: "h:1".into(),
    }
}

/// What a peer would make of the bytes.
fn receive(bytes: &[u8], from: &Identity, on: Channel) -> Option<Result<Envelope, WireError>> {
    match wire::PeerFrame::decode(bytes).ok()?.frame? {
        peer_frame::Frame::Envelope(wire) => Some(envelope(wire, from, on)),
        _ => None,
    }
}

proptest! {
    #[test]
    fn every_message_round_trips_as_bytes(
        message in messages(), from in node_ids(), life in any::<u64>(), lineage in any::<[u8; 16]>()
    ) {
        let from = sender(from, life);
        let sent = Envelope {
            from: from.node.clone(), incarnation: from.incarnation, lineage, message,
        };
        let channel = channel_of(&sent.message);
        let bytes = frame(&sent).encode_to_vec();
        prop_assert!(bytes.len() <= weight(&sent), "{} > {}", bytes.len(), weight(&sent));
        prop_assert_eq!(receive(&bytes, &from, channel), Some(Ok(sent)));
        let other = if channel == Channel::Log { Channel::Heartbeat } else { Channel::Log };
        prop_assert!(receive(&bytes, &from, other).expect("an envelope").is_err());
    }

    #[test]
    fn changed_bytes_never_panic(
        message in messages(), at in any::<prop::sample::Index>(), by in 1u8.., cut in any::<prop::sample::Index>()
    ) {
        let from = sender("n1".parse().expect("valid"), 3);
        let channel = channel_of(&message);
        let sent = Envelope {
            from: from.node.clone(), incarnation: from.incarnation, lineage: [0; 16], message,
        };
        let mut bytes = frame(&sent).encode_to_vec();
        let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
        receive(&bytes[..cut], &from, channel);
        bytes[at] ^= by;
        receive(&bytes, &from, channel);
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    let from = sender("n1".parse().expect("valid"), 3);
    let with = |message| wire::PeerEnvelope {
        incarnation: 3,
        lineage: Bytes::from_static(&[0; 16]),
        message,
    };
    let text = |wire, on| envelope(wire, &from, on).expect_err("is refused").to_string();
    assert_eq!(text(with(None), Channel::Log), "message is missing");

    let vote = || Some(peer_envelope::Message::PreVote(wire::PeerPreVote::default()));
    let other_life = wire::PeerEnvelope { incarnation: 4, ..with(vote()) };
    assert_eq!(text(other_life, Channel::Log), "incarnation: another than in the handshake");
    let cut = wire::PeerEnvelope { lineage: Bytes::from_static(&[0; 3]), ..with(vote()) };
    assert_eq!(text(cut, Channel::Log), "lineage: 3 bytes, not 16");

    let term = Some(wire::PeerTerm { number: 1, leader: "N 1".into() });
    let prepare = peer_envelope::Message::Prepare(wire::PeerPrepare { term, handover: false });
    assert!(text(with(Some(prepare)), Channel::Log).starts_with("node ID: "));

    let good = entry_to_wire(&Arc::new(Entry {
        term: Term { number: 1, leader: "n1".parse().expect("valid") },
        lsn: Lsn(1),
        kind: EntryKind::Kv,
        part: Part::WHOLE,
        request: None,
        chain: ChainHash::default(),
        body: Bytes::new(),
    }));
    for kind in [0, 8, 256 + 5, u32::MAX] {
        let error = entry(wire::PeerEntry { kind, ..good.clone() }).expect_err("unknown kind");
        assert_eq!(error.to_string(), format!("entry kind: {kind} is unknown"));
    }
    let nameless = wire::Position { term_number: 2, term_leader: String::new(), lsn: 1 };
    assert!(position(Some(nameless)).is_err());
}
