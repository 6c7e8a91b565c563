//! A user's money and the prices.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{Answer, caller, json_response};
use crate::core::facilitator::Office;
use crate::core::proto::sdk_facilitator::{AccountView, CreditRefusal};
use crate::core::store::facilitator::Shortfall;

pub(super) async fn account(State(office): State<Office>, headers: HeaderMap) -> Result<Response, Answer> {
    let hotkey = caller(&office, &headers)?;
    let account = office.store.account(&hotkey)?;
    let prices = office.prices.all().iter();
    let body = AccountView {
        hotkey,
        charges: office.prices.charge(),
        available_micro: account.available.get(),
        reserved_micro: account.reserved.get(),
        prices: prices.map(|(class, price)| (*class, price.get())).collect(),
    };
    Ok(json_response(StatusCode::OK, &body))
}

impl From<Shortfall> for Answer {
    fn from(shortfall: Shortfall) -> Self {
        let Shortfall { required, available } = shortfall;
        let missing = shortfall.missing();
        let body = CreditRefusal {
            error: "Insufficient credit".to_owned(),
            details: format!(
                "With these limits the job may cost {required} units, {available} are available: {missing} are missing. \
                 Lower the limits, or ask the operator of this facilitator for credit."
            ),
            missing_micro: missing.get(),
            required_micro: required.get(),
            available_micro: available.get(),
        };
        Self::new(StatusCode::PAYMENT_REQUIRED, &body)
    }
}
