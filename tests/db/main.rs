//! Capture, feed and roles against real MariaDB servers.
