//! Secrets: wiped when dropped, never shown, compared in constant time.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The shortest cluster secret or token, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// The longest secret that is read from a file.
const SECRET_BYTES_MAX: u64 = 4096;

/// Bytes that only those who are told know.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

/// Rejected: why a secret's file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everyone on the machine can read it.
    #[error("{path} can be read by every user of this machine: run chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is too large to be a secret.
    #[error("{path} has more than {SECRET_BYTES_MAX} bytes: that is no secret file")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not text, where text is needed.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Takes a secret; trailing line ends are not part of it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let mut bytes = Zeroizing::new(bytes.into());
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        Self(Arc::new(bytes))
    }

    /// Reads a file that others must not be able to read; tells whether its group can.
    pub fn read(path: &Path) -> Result<(Self, bool), SecretError> {
        let failed = |source| SecretError::Read { path: path.to_owned(), source };
        let meta = fs::metadata(path).map_err(failed)?;
        if meta.permissions().mode() & 0o007 != 0 {
            return Err(SecretError::Exposed { path: path.to_owned() });
        }
        if meta.len() > SECRET_BYTES_MAX {
            return Err(SecretError::TooLong { path: path.to_owned() });
        }
        let secret = Self::new(fs::read(path).map_err(failed)?);
        if std::str::from_utf8(secret.expose()).is_err() {
            return Err(SecretError::NotText { path: path.to_owned() });
        }
        Ok((secret, meta.permissions().mode() & 0o070 != 0))
    }

    /// The secret itself. Never log it, never put it into an argument.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text; empty if it is none.
    pub fn expose_text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another secret for one purpose: hex of HMAC-SHA256 over the label.
    pub fn derive(&self, label: &str) -> Secret {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.expose()).expect("HMAC takes keys of every length");
        mac.update(label.as_bytes());
        Secret::new(hex(&mac.finalize().into_bytes()))
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn matches(&self, offered: &[u8]) -> bool {
        bool::from(self.expose().ct_eq(offered))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A new random secret: 64 hex digits.
pub fn random_secret() -> Result<Secret, getrandom::Error> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(bytes.as_mut())?;
    Ok(Secret::new(hex(bytes.as_ref())))
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_shown() {
        let secret = Secret::new("hunter2hunter2hunter2\n");
        assert_eq!(secret.len(), 21);
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn tokens_are_derived_by_hmac_sha256() {
        // RFC 4231, test case 2.
        let token = Secret::new("Jefe").derive("what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(token.expose_text(), expected);
        assert!(token.matches(expected.as_bytes()));
        assert!(!token.matches(b"5bdc"));
    }

    #[test]
    fn files_that_others_read_are_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("secret");
        fs::write(&path, "0123456789abcdef\n").expect("writes");
        for (mode, outcome) in [(0o600, Ok(false)), (0o640, Ok(true)), (0o644, Err(()))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let read = Secret::read(&path).map(|(_, group)| group).map_err(|_| ());
            assert_eq!(read, outcome, "{mode:o}");
        }
    }

    #[test]
    fn random_secrets_differ() {
        let (a, b) = (random_secret().expect("random"), random_secret().expect("random"));
        assert_eq!(a.len(), 64);
        assert!(!a.matches(b.expose()));
    }
}
