//! The handshake's arithmetic: who claims what, and how both sides prove the cluster's secret.
//!
//! Both sides hash one transcript, which holds everything that was claimed; only the role byte
//! differs, so that a proof sent back to its maker proves nothing. The nonces of both sides are in
//! it, so that an old proof proves nothing either. docs/protocol.md gives the bytes.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::types::{ClusterId, Incarnation, NodeId};

/// The version of the peers' protocol; both sides must have the same.
pub const PROTOCOL: u32 = 1;
/// The shortest cluster secret that is accepted.
pub const SECRET_BYTES_MIN: usize = 16;
/// Starts every transcript, so that a proof is good for nothing else.
const LABEL: &[u8] = b"wolfscale peer handshake\0";

/// A proof: HMAC-SHA256 of a transcript.
pub type Proof = [u8; 32];

/// What all nodes of a cluster know and nobody else. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct ClusterSecret(Arc<Zeroizing<Vec<u8>>>);

/// The secret is too short to be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster secret has {bytes} bytes; it needs {SECRET_BYTES_MIN} or more, random ones")]
pub struct SecretTooShort {
    /// What it has.
    pub bytes: usize,
}

impl ClusterSecret {
    /// Takes the secret's bytes as they are: strip a file's newline before.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretTooShort> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { bytes: bytes.len() });
        }
        Ok(Self(Arc::new(bytes)))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Which stream is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// Elections, entries and acknowledgements.
    Log = 1,
    /// Heartbeats.
    Heartbeat = 2,
}

impl Channel {
    /// For messages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Who speaks in a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Side {
    /// Opened the stream.
    Opener = 1,
    /// Was called.
    Called = 2,
}

/// Who a node says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its ID.
    pub node: NodeId,
    /// Which life of its store.
    pub incarnation: Incarnation,
    /// Random at each start of the process.
    pub run: [u8; 16],
    /// Its cluster, once bootstrapped.
    pub cluster: Option<ClusterId>,
    /// `host:port` where others open their streams to it.
    pub address: String,
}

/// The longest address that a peer may tell.
pub const ADDRESS_BYTES_MAX: usize = 255;

impl Identity {
    /// Whether both belong to one cluster, as far as both know.
    pub fn same_cluster(&self, other: &Identity) -> bool {
        match (self.cluster, other.cluster) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }
}

/// Everything that both sides of a stream have claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transcript {
    /// Which stream.
    pub channel: Channel,
    /// Who opened it.
    pub opener: Identity,
    /// Who was called.
    pub called: Identity,
    /// The opener's nonce.
    pub opener_nonce: [u8; 32],
    /// The called node's nonce.
    pub called_nonce: [u8; 32],
}

impl Transcript {
    /// The proof that `side` knows the secret.
    pub fn prove(&self, secret: &ClusterSecret, side: Side) -> Proof {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of every length");
        mac.update(LABEL);
        mac.update(&[side as u8]);
        mac.update(&PROTOCOL.to_be_bytes());
        mac.update(&[self.channel as u8]);
        for (who, nonce) in [(&self.opener, &self.opener_nonce), (&self.called, &self.called_nonce)]
        {
            let node = who.node.as_str();
            mac.update(&[u8::try_from(node.len()).expect("node IDs have at most 63 bytes")]);
            mac.update(node.as_bytes());
            mac.update(&who.incarnation.0.to_be_bytes());
            mac.update(&who.run);
            mac.update(&[u8::from(who.cluster.is_some())]);
            mac.update(&who.cluster.map_or([0; 16], |c| c.0));
            mac.update(&[u8::try_from(who.address.len()).expect("at most ADDRESS_BYTES_MAX")]);
            mac.update(who.address.as_bytes());
            mac.update(nonce);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `proof` is the one of `side`; takes the same time for every wrong one.
    pub fn verify(&self, secret: &ClusterSecret, side: Side, proof: &[u8]) -> bool {
        self.prove(secret, side).as_slice().ct_eq(proof).into()
    }
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> ClusterSecret {
        ClusterSecret::new(text.as_bytes().to_vec()).expect("long enough")
    }

    fn identity(node: &str, byte: u8) -> Identity {
        Identity {
            node: node.parse().expect("valid"),
            incarnation: Incarnation(u64::from(byte)),
            run: [byte; 16],
            cluster: Some(ClusterId([byte; 16])),
            address: format!("{node}:8080"),
        }
    }

    fn transcript() -> Transcript {
        Transcript {
            channel: Channel::Log,
            opener: identity("n1", 1),
            called: identity("n2", 2),
            opener_nonce: [3; 32],
            called_nonce: [4; 32],
        }
    }

    #[test]
    fn a_proof_is_for_one_side_one_secret_and_one_transcript() {
        let (good, bad) = (secret("a secret of the cluster"), secret("another secret, not ours"));
        let t = transcript();
        let proof = t.prove(&good, Side::Opener);
        assert!(t.verify(&good, Side::Opener, &proof));
        assert!(!t.verify(&good, Side::Called, &proof), "reflected");
        assert!(!t.verify(&bad, Side::Opener, &proof), "other secret");
        assert!(!t.verify(&good, Side::Opener, &proof[..31]), "cut");
        assert!(!t.verify(&good, Side::Opener, &[]), "empty");

        let no_cluster = Identity { cluster: None, ..t.opener.clone() };
        let zero_cluster = Identity { cluster: Some(ClusterId([0; 16])), ..t.opener.clone() };
        let moved = Identity { address: "n9:8080".into(), ..t.opener.clone() };
        let others = [
            Transcript { channel: Channel::Heartbeat, ..t.clone() },
            Transcript { opener: moved, ..t.clone() },
            Transcript { opener: identity("n3", 1), ..t.clone() },
            Transcript { opener: identity("n1", 9), ..t.clone() },
            Transcript { opener: no_cluster, ..t.clone() },
            Transcript { opener: zero_cluster, ..t.clone() },
            Transcript { called: identity("n3", 2), ..t.clone() },
            Transcript { opener: t.called.clone(), called: t.opener.clone(), ..t.clone() },
            Transcript { opener_nonce: [9; 32], ..t.clone() },
            Transcript { called_nonce: [9; 32], ..t.clone() },
        ];
        let mut proofs: Vec<_> = others.iter().map(|o| o.prove(&good, Side::Opener)).collect();
        proofs.push(proof);
        let count = proofs.len();
        proofs.sort_unstable();
        proofs.dedup();
        assert_eq!(proofs.len(), count, "every field is covered");
    }

    /// Computed by Python's hmac from the layout in docs/protocol.md: other programs can speak it.
    #[test]
    fn the_bytes_are_those_of_the_documented_layout() {
        let proof = transcript().prove(&secret("a secret of the cluster"), Side::Opener);
        let hex: String = proof.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "311f31b863a5030cbc6a94067083b7c3c915c206eda3895945f5c675b5a5ea9e");
    }

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        assert_eq!(ClusterSecret::new(vec![7; 15]).err(), Some(SecretTooShort { bytes: 15 }));
        assert!(!format!("{:?}", secret("visible-secret-12345")).contains("visible"));
    }
}
