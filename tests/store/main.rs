//! The store and the log on disk: conformance, crashes, formats.
