//! What goes on beside a role while it is served: systemd is told how it is, and signals that do not stop it are followed.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::systemd::Systemd;
use crate::cmd::context::Context;
use crate::core::tasks::Tasks;
use crate::core::tasks::life::{Standing, Stuck};
use crate::core::tasks::signals::Order;
use crate::core::telemetry::{STATE_TARGET, process};

/// Serves the wishes of whoever runs a role.
#[derive(Debug)]
pub(in crate::cmd) struct Attendant<'a> {
    context: &'a Context,
    tasks: &'a Tasks,
    orders: mpsc::Receiver<Order>,
    systemd: Systemd,
    is_stopping: bool,
    is_stuck: bool,
}

impl<'a> Attendant<'a> {
    /// Makes one for the family of a role.
    pub(in crate::cmd) fn new(context: &'a Context, tasks: &'a Tasks, orders: mpsc::Receiver<Order>) -> Self {
        Self {
            context,
            tasks,
            orders,
            systemd: Systemd::of(&context.environment),
            is_stopping: false,
            is_stuck: false,
        }
    }

    /// Attends until it is dropped. It runs in the task that runs the role, so that a role which holds up its thread gives
    /// no sign of life.
    pub(in crate::cmd) async fn attend(&mut self) -> Infallible {
        let mut standing = self.tasks.life().standing();
        let mut beats = self.systemd.beat().map(ticks);
        self.tell_standing(&standing.borrow_and_update());
        loop {
            tokio::select! {
                biased;
                () = self.tasks.stopped(), if !self.is_stopping => self.stopping(),
                Ok(()) = standing.changed() => self.tell_standing(&standing.borrow_and_update()),
                Some(order) = self.orders.recv() => self.follow(order),
                () = next(&mut beats) => self.beat(Instant::now()),
            }
        }
    }

    /// Tells, once, that the role stops.
    pub(in crate::cmd) fn stopping(&mut self) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            self.systemd.stopping();
        }
    }

    fn tell_standing(&mut self, standing: &Standing) {
        if !self.is_stopping {
            self.systemd.tell(standing);
        }
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Stop => self.tasks.stop(),
            Order::Tell => self.tell(),
            Order::Reload => {
                self.systemd.reloading();
                self.context.reload();
                self.tell_standing(&self.tasks.life().standing().borrow());
            }
        }
    }

    /// Gives a sign of life, unless a loop is stuck: then systemd starts the role again. Who is stopping is waited for by
    /// other means.
    fn beat(&mut self, now: Instant) {
        let stuck = self.tasks.life().stuck(now).filter(|_| !self.is_stopping);
        let Some(Stuck { name, since }) = stuck else {
            self.is_stuck = false;
            self.systemd.is_alive();
            return;
        };
        if !std::mem::replace(&mut self.is_stuck, true) {
            let seconds = since.as_secs();
            tracing::error!(
                name,
                seconds,
                "a loop does not turn any more: systemd gets no sign of life"
            );
            self.systemd
                .complain(&format!("stuck: the loop {name} has not turned for {seconds} s"));
        }
    }

    /// Writes how things stand to the log.
    fn tell(&self) {
        let process = process::figures();
        tracing::info!(
            target: STATE_TARGET,
            tasks = self.tasks.running(),
            memory_bytes = process.memory_bytes,
            open_files = process.open_files,
            serves = self.tasks.life().standing().borrow().serves,
            is_stopping = self.tasks.is_stopping(),
            "state of the process"
        );
        for (name, turned) in self.tasks.life().turns(Instant::now()) {
            let turned_ms_ago = u64::try_from(turned.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(target: STATE_TARGET, name, turned_ms_ago, "state of a loop");
        }
        self.tasks.life().tell();
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::cmd::context::GlobalArgs;
    use crate::cmd::contract::HIDDEN;
    use crate::core::config::Environment;

    fn context() -> Context {
        Context::new(GlobalArgs::default(), Environment::default(), &HIDDEN).unwrap()
    }

    #[test]
    fn a_stuck_loop_gives_no_sign_of_life_until_it_turns_or_the_role_stops() {
        let context = context();
        let tasks = Tasks::new();
        let (_, orders) = mpsc::channel(1);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut attendant = Attendant::new(&context, &tasks, orders);
        let ear = Arc::clone(&heard);
        let send = move |states: &[sd_notify::NotifyState<'_>]| {
            ear.lock().unwrap().extend(states.iter().map(ToString::to_string));
            Ok(())
        };
        attendant.systemd = Systemd::new(Some(Box::new(send)), Some(Duration::from_secs(3)));
        assert_eq!(attendant.systemd.beat(), Some(Duration::from_secs(1)));
        let start = Instant::now();
        let late = start + Duration::from_secs(3600);
        let said = |attendant: &mut Attendant<'_>, now: Instant| {
            attendant.beat(now);
            std::mem::take(&mut *heard.lock().unwrap())
        };
        tasks.life().watch("orders", Duration::from_secs(60));
        assert_eq!(said(&mut attendant, start), ["WATCHDOG=1"]);
        let told = said(&mut attendant, late).join("\n");
        assert!(
            told.starts_with("STATUS=stuck: the loop orders has not turned for "),
            "{told}"
        );
        assert!(said(&mut attendant, late).is_empty(), "it has been said");
        tasks.life().beat("orders");
        assert_eq!(said(&mut attendant, Instant::now()), ["WATCHDOG=1"]);
        attendant.stopping();
        assert!(heard.lock().unwrap().iter().any(|said| said == "STOPPING=1"));
        heard.lock().unwrap().clear();
        assert_eq!(
            said(&mut attendant, late),
            ["WATCHDOG=1"],
            "its loops have been told to end"
        );
    }
}
