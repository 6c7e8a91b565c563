//! Who is let in: those whom the configuration or the administrator's commands name, but for those who are blocked.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::Office;
use crate::core::causes::Causes;
use crate::core::model::Hotkey;
use crate::core::store::StoreError;
use crate::core::store::facilitator::UserOrders;
use crate::core::telemetry::metrics::Loop;

/// Time between two looks for new orders.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who may log in and call.
#[derive(Debug, Default)]
pub(super) struct Users {
    any: bool,
    configured: HashSet<Hotkey>,
    orders: RwLock<UserOrders>,
}

impl Users {
    /// Makes the list of the configuration; `any` lets in every hotkey that can sign.
    pub(super) fn new(any: bool, configured: impl IntoIterator<Item = Hotkey>) -> Self {
        Self {
            any,
            configured: configured.into_iter().collect(),
            orders: RwLock::default(),
        }
    }

    /// Takes over what the administrator ordered.
    pub(super) fn follow(&self, orders: UserOrders) {
        *self.orders.write().unwrap_or_else(PoisonError::into_inner) = orders;
    }

    /// Tells whether a user is let in.
    pub(super) fn admit(&self, hotkey: &Hotkey) -> bool {
        let orders = self.orders.read().unwrap_or_else(PoisonError::into_inner);
        !orders.blocked.contains(hotkey)
            && (self.any || self.configured.contains(hotkey) || orders.added.contains(hotkey))
    }

    /// Tells whether nobody is let in.
    pub(super) fn is_nobody(&self) -> bool {
        let orders = self.orders.read().unwrap_or_else(PoisonError::into_inner);
        !self.any && self.configured.is_empty() && orders.added.is_empty()
    }
}

/// Follows new orders until the family is told to stop; `followed` is the revision that was followed last.
pub(super) async fn watch(office: Office, mut followed: i64) {
    let mut turns = office.tasks.turns(LOOK_EVERY);
    let mut is_failing = false;
    while turns.next().await {
        office.beat(Loop::Orders);
        match look(&office, followed).await {
            Ok(revision) => {
                followed = revision;
                is_failing = false;
            }
            Err(error) if is_failing => {
                tracing::debug!(error = %Causes(&error), "cannot read the administrator's orders");
            }
            Err(error) => {
                is_failing = true;
                tracing::error!(error = %Causes(&error), "cannot read the administrator's orders");
            }
        }
    }
}

async fn look(office: &Office, followed: i64) -> Result<i64, StoreError> {
    let revision = office.store.orders_revision().await?;
    if revision != followed {
        let orders = office.store.user_orders().await?;
        tracing::info!(
            added = orders.added.len(),
            blocked = orders.blocked.len(),
            "the users are as ordered"
        );
        office.gate.users().follow(orders);
    }
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_outweighs_whoever_lets_a_user_in() {
        let [alice, bob, charlie] = ["alice", "bob", "charlie"].map(Hotkey::from);
        let orders = UserOrders {
            added: HashSet::from([bob.clone()]),
            blocked: HashSet::new(),
        };
        let users = Users::new(false, [alice.clone()]);
        assert!(!users.is_nobody() && Users::default().is_nobody());
        let admitted = |users: &Users| [&alice, &bob, &charlie].map(|user| users.admit(user));
        assert_eq!(admitted(&users), [true, false, false]);
        users.follow(orders);
        assert_eq!(admitted(&users), [true, true, false]);
        let blocked = UserOrders {
            added: HashSet::new(),
            blocked: HashSet::from([alice.clone(), bob.clone()]),
        };
        users.follow(blocked.clone());
        assert_eq!(admitted(&users), [false, false, false]);
        let any = Users::new(true, []);
        assert_eq!(admitted(&any), [true, true, true]);
        any.follow(blocked);
        assert_eq!(admitted(&any), [false, false, true]);
    }
}
