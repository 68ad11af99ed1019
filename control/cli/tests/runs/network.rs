//! A network for the tests: every node is in a network namespace with its own cable to one switch.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Namespaces that are joined by a switch. They are gone when this is dropped.
pub struct Network {
    switch: String,
    nodes: Vec<String>,
}

impl Network {
    /// A namespace for each of these nodes.
    ///
    /// # Panics
    /// Where that is not possible, with what is needed.
    pub fn new(nodes: &[&str]) -> Self {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let mark = format!("dflow-{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let network =
            Self { switch: format!("{mark}-switch"), nodes: nodes.iter().map(|node| (*node).to_owned()).collect() };
        let switch = &network.switch;
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add switch type bridge"));
        ip(&format!("-n {switch} link set switch up"));
        for node in nodes {
            let own = network.namespace(node);
            ip(&format!("netns add {own}"));
            ip(&format!("-n {own} link set lo up"));
            ip(&format!("link add net netns {own} type veth peer name to-{node} netns {switch}"));
            ip(&format!("-n {switch} link set to-{node} master switch up"));
            ip(&format!("-n {own} address add {}/24 dev net", network.address(node)));
            ip(&format!("-n {own} link set net up"));
        }
        network
    }

    /// The address of a node.
    pub fn address(&self, node: &str) -> String {
        let place = self.nodes.iter().position(|other| other == node).unwrap();
        format!("10.88.0.{}", place + 1)
    }

    /// A program that runs on a node.
    pub fn command(&self, node: &str, program: &str) -> Command {
        // Unlike 'ip netns exec', this leaves the mounts unchanged, including the cgroups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(node))).arg(program);
        command
    }

    /// Limits the cable of a node to this many bytes a second in each direction.
    pub fn cap(&self, node: &str, bytes_per_second: u64) {
        let limit = format!("root tbf rate {}bit burst 64kb latency 50ms", bytes_per_second * 8);
        tool("tc", &format!("-n {} qdisc add dev net {limit}", self.namespace(node)));
        tool("tc", &format!("-n {} qdisc add dev to-{node} {limit}", self.switch));
    }

    /// Disconnects two nodes from each other; all other nodes reach both.
    pub fn part(&self, one: &str, other: &str) {
        self.silence(one, other, true);
        self.silence(other, one, true);
    }

    /// Blocks or unblocks packets in one direction, from one node to another.
    pub fn silence(&self, from: &str, to: &str, silent: bool) {
        let what = if silent { "add" } else { "delete" };
        ip(&format!("-n {} route {what} blackhole {}/32", self.namespace(from), self.address(to)));
    }

    /// Unplugs the cable of a node, or plugs it in again.
    pub fn plug(&self, node: &str, plugged: bool) {
        ip(&format!("-n {} link set to-{node} {}", self.switch, if plugged { "up" } else { "down" }));
    }

    /// The number of bytes that a node has sent on its cable, including headers.
    pub fn sent(&self, node: &str) -> u64 {
        let output = self.command(node, "cat").arg("/proc/net/dev").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("net:")).unwrap();
        line.split_whitespace().nth(8).unwrap().parse().unwrap()
    }

    fn namespace(&self, node: &str) -> String {
        self.switch.replace("switch", node)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = self.nodes.iter().map(|node| self.namespace(node));
        for namespace in nodes.chain([self.switch.clone()]) {
            let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
        }
    }
}

fn ip(arguments: &str) {
    tool("ip", arguments);
}

fn tool(program: &str, arguments: &str) {
    let needs =
        "these tests need root, a kernel with network namespaces, veth, bridge and tbf, and ip and tc of iproute2";
    match Command::new(program).args(arguments.split(' ')).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{needs}; '{program} {arguments}' says: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{needs}; '{program}' cannot be started: {error}"),
    }
}
