//! Servers and tables that are not as they must be.

use std::process::Command;

use super::*;

#[tokio::test]
async fn tables_that_are_not_as_they_must_be_halt() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    sink.commit(&commit(1, vec![volume(1, None, 1)], vec![])).await.expect("a commit");
    let mut generation = 1;
    for (change, undo, wrong) in [
        ("RENAME symbol TO ticker", "RENAME ticker TO symbol", "column symbol text is missing"),
        ("ADD more int", "DROP more", "column more integer is none of the pipeline's"),
        (
            "ADD trades2 float8",
            "DROP trades2",
            "column trades2 double precision is none of the pipeline's",
        ),
        ("RENAME TO elsewhere", "", "table public.volume is gone"),
    ] {
        run(&server, &format!("ALTER TABLE volume {change}")).await;
        generation += 1;
        let mut next = sink_at(&server.url(), "", vec![operator()]);
        let Err(ClaimError::Fault(fault)) = next.open(generation).await else { panic!("{change}") };
        assert_eq!(fault.remedy, Remedy::Halt);
        assert!(fault.message.contains(wrong), "{fault}");
        assert!(fault.help.is_some());
        if !undo.is_empty() {
            run(&server, &format!("ALTER TABLE volume {undo}")).await;
        }
    }
    assert_eq!(lines(&server, "SELECT to_regclass('volume')").await, [""], "it is not made again");

    run(&server, "DELETE FROM waterwheel.progress; ALTER TABLE elsewhere RENAME TO volume").await;
    let mut next = sink_at(&server.url(), "", vec![operator()]);
    let Err(ClaimError::Fault(fault)) = next.open(1).await else { panic!("a halt") };
    assert!(fault.message.contains("holds rows, but waterwheel.progress has no"), "{fault}");

    run(&server, "DELETE FROM volume; DROP INDEX volume_window_start_symbol_idx").await;
    let Err(ClaimError::Fault(fault)) = next.open(2).await else { panic!("a halt") };
    assert!(
        fault.message.contains("no unique index over (\"window_start\", \"symbol\")"),
        "{fault}"
    );
    // A key that cannot be NULL is as good.
    run(&server, "ALTER TABLE volume ADD PRIMARY KEY (symbol, window_start)").await;
    next.open(3).await.expect("a claim");

    // Altered while it runs: nothing is written.
    run(&server, "ALTER TABLE volume DROP trades CASCADE").await;
    let fault = next.commit(&commit(1, vec![volume(1, Some("A"), 1)], vec![])).await;
    let fault = fault.expect_err("a halt");
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("table public.volume"), "{fault}");
}

#[tokio::test]
async fn every_class_of_error_has_its_remedy() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    // A row is refused with the error that it names.
    run(
        &server,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = NEW.symbol; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON volume FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let retried = [
        "40001", "40P01", "08000", "08006", "53000", "53100", "53200", "53300", "57P01", "57P02",
        "57P03", "57014", "55P03", "25006", "25P03",
    ];
    let halted = [
        "42P01", "42703", "42804", "22003", "22021", "22P05", "23505", "23514", "21000", "54000",
        "0A000", "55000", "58030", "P0001", "XX000", "ZZ999",
    ];
    let stopped = ["42501", "28000", "3D000"];
    let cases =
        [(&retried[..], Remedy::Retry), (&halted[..], Remedy::Halt), (&stopped[..], Remedy::Stop)];
    for (codes, remedy) in cases {
        for code in codes {
            let row = vec![volume(1, Some(code), 1)];
            let fault = sink.commit(&commit(1, row, vec![])).await.expect_err(code);
            assert_eq!(fault.remedy, remedy, "{code}: {fault}");
            assert!(fault.message.contains(&format!("SQLSTATE {code}")), "{fault}");
            // An answer of the server leaves nothing open.
            assert_eq!(fault.outcome, Outcome::NotWritten, "{code}");
            assert_eq!(sink.recover().await.expect("a recovery"), None, "{code}");
        }
    }
    run(&server, "DROP TRIGGER refuse ON volume").await;
    sink.commit(&commit(1, vec![volume(1, Some("A"), 1)], vec![])).await.expect("a commit");
}

#[tokio::test]
async fn a_server_that_refuses_is_told_from_one_that_is_down() {
    let mut server = TestServer::start().await;
    run(&server, "CREATE ROLE locked LOGIN PASSWORD 'right'; CREATE ROLE guest LOGIN").await;
    let open = async |url: String| {
        let mut sink = sink_at(&url, "", vec![operator()]);
        match sink.open(1).await {
            Ok(_) => panic!("{url} opened"),
            Err(ClaimError::Stale(_)) => panic!("{url} is stale"),
            Err(ClaimError::Fault(fault)) => (fault.remedy, fault.to_string()),
        }
    };
    let at = |user: &str, database: &str| {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", server.port())
    };
    for (url, wrong) in [
        (at("locked:hunter2", "postgres"), "password authentication failed"),
        (at("locked", "postgres"), "password missing"),
        (at("postgres", "nowhere"), "does not exist"),
        (at("guest", "postgres"), "permission denied"),
        (at("postgres", "postgres").replace("disable", "require"), "does not support TLS"),
    ] {
        let (remedy, text) = open(url.clone()).await;
        assert_eq!(remedy, Remedy::Stop, "{url}: {text}");
        assert!(text.contains(wrong) && !text.contains("hunter2"), "{text}");
    }
    let down = at("postgres", "postgres");
    server.stop();
    let (remedy, text) = open(down).await;
    assert_eq!(remedy, Remedy::Retry);
    assert!(text.contains("cannot be reached"), "{text}");
}

#[tokio::test]
async fn probe_says_what_would_go_wrong_and_changes_nothing() {
    let server = TestServer::start().await;
    run(&server, "CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    assert!(sink.probe().await.is_empty());
    assert_eq!(lines(&server, "SELECT to_regclass('volume')").await, [""]);
    let as_guest = server.url().replace("postgres@", "guest@");
    let mut guest = sink_at(&as_guest, "", vec![operator()]);
    let problems = guest.probe().await;
    assert_eq!(
        problems,
        [
            "table waterwheel.progress is missing, and there is no right to create it",
            "table public.volume is missing, and there is no right to create it",
        ]
    );
    sink.open(1).await.expect("a claim");
    run(&server, "GRANT SELECT ON volume TO guest; GRANT USAGE ON SCHEMA waterwheel TO guest")
        .await;
    let problems = guest.probe().await;
    assert!(problems.contains(&"table public.volume: no right to INSERT".to_owned()));
    assert!(!problems.contains(&"table public.volume: no right to SELECT".to_owned()));
    assert!(problems.contains(&"table waterwheel.progress: no right to SELECT".to_owned()));
    run(&server, "ALTER TABLE volume ADD more int").await;
    let wanted = "table public.volume: column more integer is none of the pipeline's";
    assert_eq!(sink.probe().await, [wanted]);
    let down = server.url().replace(&server.port().to_string(), "1");
    let problems = sink_at(&down, "", vec![operator()]).probe().await;
    assert!(problems.len() == 1 && problems[0].contains("cannot be reached"), "{problems:?}");
}

#[tokio::test]
async fn tls_is_verified_where_it_is_required() {
    let mut server = TestServer::create(&["ssl=on", "fsync=off"]);
    let data = server.data();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "server.key",
            "-out",
            "server.crt",
        ])
        .current_dir(&data)
        .output()
        .expect("this test needs the command `openssl`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Postgres takes only a key that is its own.
    let owned = Command::new("chown")
        .args(["--reference=.", "server.key", "server.crt"])
        .current_dir(&data)
        .status();
    assert!(owned.expect("the command `chown`").success());
    server.run().await;

    let ca = format!("tls_ca = \"{}\"", data.join("server.crt").display());
    let url = |host: &str, mode: &str| {
        format!("postgres://postgres@{host}:{}/postgres?sslmode={mode}", server.port())
    };
    let used = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE ssl AND application_name LIKE 'waterwheel%'";
    let mut sink = sink_at(&url("localhost", "verify-full"), &ca, vec![operator()]);
    sink.open(1).await.expect("a claim");
    assert_eq!(lines(&server, used).await, ["1"]);
    sink.close().await.expect("an end");
    // Encrypted without a question.
    sink_at(&url("127.0.0.1", "prefer"), "", vec![operator()]).open(2).await.expect("a claim");

    for (url, more, wrong) in [
        (url("localhost", "require"), "", "certificate"),
        (url("127.0.0.1", "require"), ca.as_str(), "certificate"),
        (url("localhost", "require"), "tls_ca = \"/nowhere/ca.pem\"", "/nowhere/ca.pem"),
    ] {
        let mut sink = sink_at(&url, more, vec![operator()]);
        let Err(ClaimError::Fault(fault)) = sink.open(9).await else { panic!("{url} opened") };
        assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
        assert!(fault.message.contains(wrong), "{fault}");
    }
}
