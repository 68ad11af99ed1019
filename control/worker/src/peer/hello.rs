//! The first messages on a connection: each end says which process it is.

use super::message::{ManagementMessage, broken};
use super::wakeup::Wakeup;
use dflow_transport::Connection;
use std::sync::Arc;
use std::time::Duration;

/// The time that a process has to identify itself.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(10);

/// On a connection that this end has dialed: says who this process is, and waits until the other end has done so. Gives
/// the other's number. `number`: that of the first path.
///
/// # Errors
/// Why the connection cannot be used; it is closed then.
pub(crate) async fn hello(connection: &Connection, life: u64, number: u64) -> Result<u64, String> {
    let wakeup = Arc::new(Wakeup::default());
    ManagementMessage::Hello { life, number }.send(connection)?;
    match first_message(connection, &wakeup).await? {
        ManagementMessage::Hello { life, .. } => Ok(life),
        _ => {
            let what = broken("it did not say who it is");
            connection.violated(&what);
            Err(what)
        }
    }
}

/// The first message of the other end.
///
/// # Errors
/// If it does not come, or is none. The connection is closed then.
pub(crate) async fn first_message(connection: &Connection, wakeup: &Arc<Wakeup>) -> Result<ManagementMessage, String> {
    connection.set_waker(wakeup.waker());
    let first = async {
        loop {
            match ManagementMessage::receive(connection) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => match connection.closed() {
                    Some(reason) => return Err(reason),
                    None => wakeup.woken().await,
                },
                Err(what) => {
                    connection.violated(&broken(&what));
                    return Err(broken(&what));
                }
            }
        }
    };
    tokio::time::timeout(HELLO_TIME, first).await.unwrap_or_else(|_| {
        let reason = "it did not introduce itself in time";
        connection.close(reason);
        Err(reason.to_owned())
    })
}
