//! Configuration, gRPC, HTTP, wolfctl and the peers' transport.
