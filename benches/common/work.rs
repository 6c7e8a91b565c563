//! Work beside other work.

use horde::core::tasks::Tasks;
use tokio::sync::oneshot;

use crate::Failure;

/// Runs on the runtime's threads rather than on the caller's alone.
pub(crate) async fn in_background<T: Send + 'static>(
    future: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, outcome) = oneshot::channel();
    Tasks::new().spawn("worker", async move {
        drop(sender.send(future.await));
    });
    outcome.await.map_err(|_| "a worker panicked")?
}
