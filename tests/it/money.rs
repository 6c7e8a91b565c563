//! Users and money, by the real facilitator and the commands beside it: who is let in while it runs, what jobs cost, what
//! is refused. Random lives of jobs are in `money_lives`, crashes in `facilitator_crash`.

use horde::core::model::ExecutorClass;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::facilitator::{pushed, report};
use crate::gateway::{Gateway, PATIENCE, PAUSE, address, job, uuid};
use crate::terminal::Terminal;

/// Waits until a login is answered like this.
async fn until_login_is(gateway: &Gateway, user: &str, is_let_in: bool) {
    let waited = timeout(PATIENCE, async {
        loop {
            match gateway.door.token(user).await {
                Ok(_) if is_let_in => return,
                Err(refusal) if !is_let_in => {
                    assert_eq!(refusal, (400, json!({"error": "Hotkey not allowed"})));
                    return;
                }
                Ok(_) | Err(_) => sleep(PAUSE).await,
            }
        }
    });
    waited.await.unwrap();
}

#[tokio::test]
async fn users_are_let_in_and_kept_out_while_the_facilitator_runs() {
    let bob = address("//Bob");
    let mut gateway = Gateway::make(&[("HORDE_FACILITATOR_USERS", &bob)]).await;
    let (code, _, words) = gateway.told(&["user", "list"]).await;
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains("horde facilitator run"), "{words}");
    gateway.launch().await;
    // Whom the configuration names is let in, and nobody else, as the reference's whitelist has it.
    let bobs = gateway.door.token("//Bob").await.unwrap();
    let charlie = address("//Charlie");
    until_login_is(&gateway, "//Charlie", false).await;
    let added = gateway
        .asked(&["user", "add", &charlie, "--note", "a friend"])
        .await;
    assert_eq!(
        (&added["admitted"], &added["note"]),
        (&json!(true), &json!("a friend"))
    );
    until_login_is(&gateway, "//Charlie", true).await;
    // A block outweighs both, at the login and with a token.
    for user in [&bob, &charlie] {
        let blocked = gateway
            .asked(&["user", "block", user, "--reason", "stolen"])
            .await;
        assert_eq!(
            (&blocked["admitted"], &blocked["blocked"]["reason"]),
            (&json!(false), &json!("stolen"))
        );
    }
    for user in ["//Bob", "//Charlie"] {
        until_login_is(&gateway, user, false).await;
    }
    let refused = gateway.door.get("/api/v1/jobs/", &bobs).await;
    assert_eq!(refused, (401, json!({"detail": "Unauthorized hotkey."})));
    // Orders outlive the process.
    gateway.signal(Signal::KILL).await;
    gateway.launch().await;
    until_login_is(&gateway, "//Charlie", false).await;
    gateway.asked(&["user", "unblock", &charlie]).await;
    until_login_is(&gateway, "//Charlie", true).await;
    let (code, _, words) = gateway.told(&["user", "unblock", &charlie]).await;
    assert_eq!(code, Some(3), "{words}");
    let (code, _, words) = gateway.told(&["user", "add", "5Bad"]).await;
    assert_eq!(code, Some(2), "{words}");
    let listed = gateway.asked(&["user", "list"]).await;
    let standing = |user: &str| {
        let all = listed.as_array().unwrap().iter();
        let found = all.clone().find(|entry| entry["hotkey"] == user).unwrap();
        (
            found["admitted"].as_bool().unwrap(),
            found["configured"].as_bool().unwrap(),
        )
    };
    assert_eq!(standing(&bob), (false, true));
    assert_eq!(standing(&charlie), (true, false));
    let (code, shown, _) = gateway.told(&["user", "show", &bob]).await;
    assert_eq!(code, Some(0));
    assert!(shown.contains("kept out") && shown.contains("stolen"), "{shown}");
}

#[tokio::test]
async fn a_job_is_paid_from_credit_or_refused_with_what_is_missing() {
    let mut gateway = Gateway::make(&[
        ("HORDE_FACILITATOR_ALLOW_ANY_USER", "true"),
        ("HORDE_FACILITATOR_PRICES", "always_on.test=1000"),
    ])
    .await;
    gateway.launch().await;
    let charlie = address("//Charlie");
    let token = gateway.door.token("//Charlie").await.unwrap();
    let account = async || gateway.door.get("/api/v1/account/", &token).await;
    let holds = |available: i64, reserved: i64| {
        (
            200,
            json!({"hotkey": charlie, "charges": true, "available_micro": available, "reserved_micro": reserved,
                "prices": {"always_on.test": 1000}}),
        )
    };
    assert_eq!(account().await, holds(0, 0));
    let mut alice = gateway.door.try_validator().await.unwrap();
    // 10 + 20 + 5 seconds; the streaming start limit counts only for jobs that stream.
    let wanted = job([10, 20, 5]);
    let refused = gateway.door.submit("//Charlie", &token, &wanted).await;
    assert_eq!(refused.0, 402, "{refused:?}");
    let micro = |key: &str| refused.1[key].as_i64().unwrap();
    assert_eq!(
        (
            &refused.1["error"],
            micro("missing_micro"),
            micro("required_micro"),
            micro("available_micro")
        ),
        (&json!("Insufficient credit"), 35_000, 35_000, 0)
    );
    assert!(
        refused.1["details"].as_str().unwrap().contains("0.035"),
        "{refused:?}"
    );

    let add = [
        "credit", "add", &charlie, "0.05", "--note", "welcome", "--key", "one",
    ];
    let given = gateway.asked(&add).await;
    assert_eq!(
        given,
        json!({"hotkey": charlie, "added": true, "amount_micro": 50_000, "available_micro": 50_000})
    );
    assert_eq!(gateway.asked(&add).await["added"], false);
    let (code, _, words) = gateway
        .told(&["credit", "add", &charlie, "0.06", "--key", "one"])
        .await;
    assert_eq!(code, Some(4), "{words}");
    for bad in ["0", "1e3", "1.0000001", "abc", "1,5"] {
        let (code, _, words) = gateway.told(&["credit", "add", &charlie, bad]).await;
        assert_eq!(code, Some(2), "{bad}: {words}");
    }

    let (status, stored) = gateway.door.submit("//Charlie", &token, &wanted).await;
    assert_eq!(status, 201, "{stored}");
    let cost = json!({"reserved_micro": 35_000, "charged_micro": 0, "seconds": 0});
    assert_eq!(stored["horde"]["cost"], cost);
    assert_eq!(account().await, holds(15_000, 35_000));
    let (_, second) = gateway.door.submit("//Charlie", &token, &wanted).await;
    assert_eq!(
        second["missing_micro"], 20_000,
        "what is set aside is not spent twice"
    );
    // What is set aside cannot be taken back.
    let (code, _, words) = gateway.told(&["credit", "add", &charlie, "-0.02"]).await;
    assert_eq!(code, Some(4), "{words}");
    // What is given is taken back only by who means it, and a plan changes nothing.
    let take = ["credit", "add", &charlie, "-0.005"];
    let (code, _, words) = gateway.told(&take).await;
    assert!(code == Some(2) && words.contains("--yes gives it"), "{words}");
    let plan = gateway.told(&[&take[..], &["--dry-run"]].concat()).await;
    let told = format!("would change the credit of user {charlie}\n  available: 0.015 -> 0.01");
    assert_eq!(plan, (Some(11), told, String::new()));
    // On the main network even that is not enough: the name must be typed.
    let real = [&take[..], &["--context", "finney"]].concat();
    for (typed, code) in [("yes", 1), (charlie.as_str(), 0)] {
        let mut terminal = Terminal::start(&gateway.command(&real), Some("xterm"));
        terminal.shows("MAINNET finney").await;
        terminal.press(&format!("{typed}\r"));
        let (ended, screen) = terminal.end().await;
        assert_eq!(ended, code, "{screen}");
    }
    assert_eq!(account().await, holds(10_000, 35_000));

    let id = uuid(&stored);
    let (_, request) = pushed(&mut alice).await;
    assert_eq!(request.uuid, id);
    for status in ["received", "accepted", "executor_ready"] {
        report(&mut alice, id.as_str(), status, Value::Null).await;
    }
    let response = json!({"miner_response": {"docker_process_stdout": "", "docker_process_stderr": ""}});
    report(&mut alice, id.as_str(), "completed", response).await;
    let view = gateway.door.client("//Charlie").job(&id).await.unwrap();
    let cost = view.horde.cost.unwrap();
    assert!((1..=35).contains(&cost.seconds), "{cost:?}");
    assert_eq!(cost.charged_micro, 1000 * cost.seconds);
    assert_eq!(account().await, holds(45_000 - cost.charged_micro, 0));
    let listed = gateway.asked(&["credit", "list", &charlie]).await;
    let kinds: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|transfer| transfer["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["return", "charge", "debit", "reserve", "credit"]);
    let (code, table, _) = gateway.told(&["credit", "list", "--kind", "credit"]).await;
    assert_eq!(code, Some(0));
    assert!(table.contains("0.05") && table.contains("welcome"), "{table}");
    assert_eq!(gateway.told(&["credit", "check"]).await.0, Some(0));
}

#[tokio::test]
async fn a_class_without_a_price_is_refused_where_others_have_one_and_zero_is_a_price() {
    let mut gateway = Gateway::make(&[
        ("HORDE_FACILITATOR_ALLOW_ANY_USER", "true"),
        (
            "HORDE_FACILITATOR_PRICES",
            "always_on.gpu-24gb=400,always_on.test=0",
        ),
    ])
    .await;
    gateway.launch().await;
    let _alice = gateway.door.try_validator().await.unwrap();
    let token = gateway.door.token("//Charlie").await.unwrap();
    let mut wanted = job([1, 1, 1]);
    let (status, free) = gateway.door.submit("//Charlie", &token, &wanted).await;
    assert_eq!(status, 201, "{free}");
    let nothing = json!({"reserved_micro": 0, "charged_micro": 0, "seconds": 0});
    assert_eq!(free["horde"]["cost"], nothing);
    wanted.executor_class = ExecutorClass::AlwaysOnLlmA6000;
    let (status, refused) = gateway.door.submit("//Charlie", &token, &wanted).await;
    assert_eq!(status, 400);
    let words = refused["executor_class"][0].as_str().unwrap();
    assert!(words.contains("always_on.llm.a6000 has no price"), "{words}");

    let prices = gateway.asked(&["prices"]).await;
    assert_eq!(
        prices,
        json!({"charges": true, "prices": {"always_on.gpu-24gb": 400, "always_on.test": 0}})
    );
    let (_, table, words) = gateway.told(&["prices"]).await;
    assert!(table.contains("0.0004") && table.contains("1.44"), "{table}");
    assert!(words.contains("always_on.llm.a6000"), "{words}");
    let (code, _, words) = gateway.told(&["credit", "check"]).await;
    assert_eq!(code, Some(0), "{words}");
    // Somebody writes into the file.
    gateway.signal(Signal::TERM).await;
    let database = rusqlite::Connection::open(gateway.database()).unwrap();
    database
        .execute("UPDATE accounts SET balance = 7 WHERE kind = 'income'", ())
        .unwrap();
    for change in [
        "DELETE FROM bills",
        "UPDATE bills SET price = 1",
        "DELETE FROM accounts",
    ] {
        assert!(database.execute(change, ()).is_err(), "{change}");
    }
    drop(database);
    let (code, told, words) = gateway.told(&["credit", "check"]).await;
    assert_eq!(code, Some(10), "{words}");
    assert!(
        told.contains("account 2 (income ): 7 is written, 0 by the transfers"),
        "{told}"
    );
}
