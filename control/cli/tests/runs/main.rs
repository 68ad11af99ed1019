//! Whole runs through the real `dflow`: the shapes that a workflow can have, and everything that can go wrong.

mod cluster;
mod cluster_faults;
mod deterministic;
mod distributed;
mod faults;
mod hostile;
mod impostor;
mod inputs;
mod limits;
mod logs;
mod lost_nodes;
mod metrics;
mod namespaces;
mod network;
mod nodes;
mod outputs;
mod peers;
mod placement;
mod rdma;
mod readme;
mod refusals;
mod shapes;
mod shared;
mod signals;
mod support;
mod surroundings;
