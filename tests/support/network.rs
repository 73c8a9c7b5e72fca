//! A network of namespaces on one bridge: one namespace a node, as one machine a node.

use std::process::{Command, Stdio};

use crate::tool::have;

/// The namespaces, with names of their own in each run; they end with it.
pub struct Network {
    mark: String,
    subnet: String,
    count: usize,
}

impl Network {
    /// A bridge in a namespace of its own, and `count` namespaces on it, all up.
    pub fn new(count: usize) -> Self {
        assert!(have("ip"), "install iproute2");
        let mark = format!("ws{:x}", rand::random_range(0x10_0000..0xff_ffff));
        let subnet = format!("10.213.{}", rand::random_range(1..255));
        let network = Self { mark, subnet, count };
        let hub = network.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "br0", "up"]);
        for index in 0..count {
            network.add(index);
        }
        network
    }

    fn add(&self, index: usize) {
        let (hub, namespace, port) = (self.hub(), self.namespace(index), self.port(index));
        ip(&["netns", "add", &namespace]);
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
        ip(&[&["-n", &hub, "link", "add", &port], &peer[..]].concat());
        ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"]);
        let address = format!("{}/24", self.address(index));
        ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
    }

    /// A node's address.
    pub fn address(&self, index: usize) -> String {
        format!("{}.{}", self.subnet, index + 1)
    }

    /// A command that runs as on that node's machine.
    pub fn command(&self, index: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(index), program]);
        command
    }

    /// Takes a node off the network, or brings it back.
    pub fn connect(&self, index: usize, connected: bool) {
        let state = if connected { "up" } else { "down" };
        ip(&["-n", &self.hub(), "link", "set", &self.port(index), state]);
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.mark)
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}-n{}", self.mark, index + 1)
    }

    fn port(&self, index: usize) -> String {
        format!("port{}", index + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = (0..self.count).map(|index| self.namespace(index));
        for namespace in nodes.chain([self.hub()]) {
            let mut command = Command::new("ip");
            command.args(["netns", "delete", &namespace]);
            let _ = command.stderr(Stdio::null()).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("run ip");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {errors}");
}
