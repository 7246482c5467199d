//! Where work that has no place on a server's own tasks is done: on a thread in a process, as a task in a simulation.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

/// Work that ends by itself.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does a piece of work to its end, somewhere. Returns at once; the error is that it could not begin.
pub type Runner = Arc<dyn Fn(Work) -> io::Result<()> + Send + Sync>;

/// A thread of this name, with a runtime of its own: the work may block, or compute for long.
pub fn on_a_thread(name: &'static str) -> Runner {
    Arc::new(move |work| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(work))?;
        Ok(())
    })
}

/// The same for work that may take its time: the operating system lets everybody else's go first. A process without the
/// right to say so runs it like any other.
pub fn in_the_background(name: &'static str) -> Runner {
    let run = on_a_thread(name);
    Arc::new(move |work| {
        run(Box::pin(async move {
            // Of this thread alone, although it is called a process's.
            if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICENESS) {
                tracing::debug!(%error, name, "background work runs with everybody's priority");
            }
            work.await;
        }))
    })
}

/// A third of what another thread gets of a core that both want.
const BACKGROUND_NICENESS: i32 = 5;

/// A task of the current runtime: for work that neither blocks nor computes for long at a time, so that a simulator
/// owns the order of events.
pub fn on_a_task() -> Runner {
    Arc::new(|work| {
        tokio::spawn(work);
        Ok(())
    })
}
