//! Why a node cannot be set up.

use crate::options::BudgetError;
use dflow_disk::DiskError;
use dflow_store::StoreError;

/// Why a node cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is too little memory for streams.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The store cannot be set up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spill directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The launcher cannot be heard.
    #[error("cannot watch the launcher: {0}")]
    Watch(std::io::Error),
}
