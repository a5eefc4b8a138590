//! What the language of the file can: includes, variables, secrets of programs; and what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use gateway_config::*;

const STRONG: &str = "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBs";

fn load_in(dir: &Path, text: &str) -> Result<Settings, ConfigError> {
    init_state_dir(dir).unwrap();
    let env = |name: &str| match name {
        "LEVEL" => Some("debug".to_owned()),
        "HOST" => Some("gw.example".to_owned()),
        "EMPTY" => Some(String::new()),
        "SECRET" => Some(STRONG.to_owned()),
        _ => None,
    };
    let request = LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &env,
    };
    load_text(text, &request, dir.join("gateway.json5"))
}

fn try_load(text: &str) -> Result<Settings, ConfigError> {
    load_in(tempfile::tempdir().unwrap().path(), text)
}

#[test]
fn included_files_are_put_in_place_and_what_stands_beside_wins() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(
        "parts/agents.json5",
        "{ default: \"a\", entries: { a: { $include: \"./more/a.json5\" }, b: {} } }",
    );
    put("parts/more/a.json5", "{ systemPrompt: \"from a file\" }");
    put(
        "parts/log.json5",
        "\u{feff}{ level: \"warn\", format: \"json\" }",
    );
    put("parts/log2.json5", "{ level: \"error\" }");
    let settings = load_in(
        dir.path(),
        "{ $include: [], agents: { $include: \"parts/agents.json5\", entries: { b: { systemPrompt: \"own\" } } },
           logging: { $include: [\"parts/log.json5\", \"parts/log2.json5\"] } }",
    )
    .unwrap();
    let main = settings.main();
    assert_eq!(main.agents.default, "a");
    assert_eq!(
        main.agents.entries["a"].system_prompt.as_deref(),
        Some("from a file")
    );
    assert_eq!(
        main.agents.entries["b"].system_prompt.as_deref(),
        Some("own")
    );
    assert_eq!(
        settings.logging.level,
        LogLevel::Error,
        "the later one wins"
    );
    assert_eq!(settings.logging.format, LogFormat::Json);
    assert_eq!(
        settings.written.included(),
        [
            "parts/agents.json5",
            "parts/more/a.json5",
            "parts/log.json5",
            "parts/log2.json5"
        ]
    );
    match settings.written.origin("agents.entries.a.systemPrompt") {
        Origin::File {
            file, line, column, ..
        } => {
            assert!(file.ends_with("parts/more/a.json5"));
            assert_eq!((line, column), (1, 17));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(settings.written.origin("gateway.port"), Origin::Default);

    // A fault is told where it is.
    put("parts/log2.json5", "{\n  levle: \"error\" }");
    let error = load_in(
        dir.path(),
        "{ logging: { $include: \"parts/log2.json5\" } }",
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("parts/log2.json5:2:3: ") && text.contains("did you mean `level`"),
        "{text}"
    );
    put("parts/log2.json5", "{ level: ");
    let error = load_in(
        dir.path(),
        "{ logging: { $include: \"parts/log2.json5\" } }",
    )
    .unwrap_err();
    assert!(error.to_string().contains("parts/log2.json5:1:"), "{error}");
    put("parts/log2.json5", "[1]");
    let error = load_in(
        dir.path(),
        "{ logging: { $include: \"parts/log2.json5\" } }",
    )
    .unwrap_err();
    assert!(error.to_string().contains("must hold an object"), "{error}");
    put("parts/log2.json5", "{ level: \"${NOT_SET}\" }");
    let error = load_in(
        dir.path(),
        "{ logging: { $include: \"parts/log2.json5\" } }",
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("parts/log2.json5:1:10: logging.level"),
        "{error}"
    );
}

#[test]
fn nothing_outside_of_the_folder_is_included_and_nothing_without_end() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(outer.path().join("out.json5"), "{ level: \"debug\" }").unwrap();
    std::fs::write(dir.join("self.json5"), "{ $include: \"self.json5\" }").unwrap();
    std::fs::write(dir.join("a.json5"), "{ $include: \"b.json5\" }").unwrap();
    std::fs::write(dir.join("b.json5"), "{ $include: \"./a.json5\" }").unwrap();
    for n in 0..12 {
        let next = format!("{{ $include: \"deep{}.json5\" }}", n + 1);
        std::fs::write(dir.join(format!("deep{n}.json5")), next).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(outer.path().join("out.json5"), dir.join("link.json5")).unwrap();
    let many = vec!["\"empty.json5\""; 65].join(", ");
    std::fs::write(dir.join("empty.json5"), "{}").unwrap();
    let absolute = format!("{:?}", outer.path().join("out.json5"));
    for (name, word) in [
        ("\"../out.json5\"", "outside of the configuration's folder"),
        (
            "\"x/../../out.json5\"",
            "outside of the configuration's folder",
        ),
        (absolute.as_str(), "outside of the configuration's folder"),
        ("\"link.json5\"", "leads out of the configuration's folder"),
        ("\"nothing.json5\"", "no such file"),
        ("\"secrets\"", "not a regular file"),
        ("\"self.json5\"", "includes itself"),
        ("\"a.json5\"", "includes itself"),
        ("\"deep0.json5\"", "more than 8 deep"),
        (&format!("[{many}]"), "more than 64 files"),
        ("3", "expected the name of a file"),
        ("[null]", "expected the name of a file"),
    ] {
        let error = load_in(&dir, &format!("{{ logging: {{ $include: {name} }} }}")).unwrap_err();
        assert!(error.to_string().contains(word), "{name}: {error}");
    }
}

#[test]
fn variables_are_put_into_texts() {
    let settings = try_load(
        "{ logging: { level: \"${LEVEL}\" }, gateway: { allowedOrigins: [\"https://${HOST}\"] },
           agents: { entries: { main: { systemPrompt: \"a${EMPTY}b $${HOST} $5 {x}\" } } } }",
    )
    .unwrap();
    assert_eq!(settings.logging.level, LogLevel::Debug);
    assert!(
        settings
            .gateway
            .allowed_origins
            .contains("https://gw.example")
    );
    assert_eq!(
        settings.main().agents.entries["main"]
            .system_prompt
            .as_deref(),
        Some("ab ${HOST} $5 {x}")
    );
    match settings.written.origin("logging.level") {
        Origin::File { env, .. } => assert_eq!(env, ["LEVEL"]),
        other => panic!("{other:?}"),
    }
    for (text, words) in [
        (
            "{\n logging: { level: \"${NOPE}\" } }",
            ["2:20", "NOPE is not set"],
        ),
        (
            "{ gateway: { bind: \"${}\" } }",
            ["1:20", "does not hold the name"],
        ),
        (
            "{ gateway: { bind: \"${a b}\" } }",
            ["1:20", "does not hold the name"],
        ),
        (
            "{ gateway: { bind: \"${HOST\" } }",
            ["1:20", "does not hold the name"],
        ),
    ] {
        let error = try_load(text).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{text}: {error}");
        }
    }
    // A secret is a reference of its own kind, and its value is in no message and no tree.
    let settings = try_load("{ gateway: { auth: { token: \"${SECRET}\" } } }").unwrap();
    assert_eq!(settings.main().auth.active().unwrap().expose(), STRONG);
    assert!(!format!("{settings:?}").contains(STRONG));
    assert!(!redacted_json(&settings).to_string().contains(STRONG));
}

/// Covers: Z13.
#[test]
fn odd_keys_are_unknown_keys_or_plain_data() {
    for text in [
        "{ __proto__: { gateway: {} } }",
        "{ gateway: { __proto__: { port: 1 } } }",
        "{ constructor: {} }",
        "{ gateway: { auth: { \"__proto__\": {} } } }",
        "{ channels: { webhook: { accounts: { a: { __proto__: {} } } } } }",
    ] {
        let error = try_load(text).unwrap_err().to_string();
        assert!(error.contains("unknown key"), "{text}: {error}");
    }
    for text in ["{ gateway: {}, gateway: {} }", "{ a: { \"b\": 1, b: 2 } }"] {
        let error = try_load(text).unwrap_err().to_string();
        assert!(error.contains("there twice"), "{text}: {error}");
        assert!(parse_value(text).is_err());
    }
    // Where any key may stand it is one like others: it changes nothing else.
    let settings = try_load(
        "{ channels: { webhook: { accounts: { a: { enabled: false, config: { __proto__: { admin: true }, constructor: 1 } } } } } }",
    )
    .unwrap();
    let account = &settings.main().channels[0];
    assert_eq!(account.config["__proto__"]["admin"], true);
    assert_eq!(account.config.get("admin"), None);
    assert!(!account.http.allow_private);
    assert!(parse_value(&format!("{}1{}", "[".repeat(40), "]".repeat(40))).is_err());
}

#[test]
fn the_schema_of_the_file_may_be_named() {
    try_load("{ $schema: \"./config.schema.json\" }").unwrap();
    assert!(try_load("{ gateway: { $schema: \"x\" } }").is_err());
    try_load("{ version: 1 }").unwrap();
    let error = try_load("{\n version: 2 }").unwrap_err().to_string();
    assert!(
        error.contains(":2:11: version") && error.contains("newer gateway"),
        "{error}"
    );
}

#[cfg(unix)]
mod programs {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("secret-of-the-program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn token(argv: &str, more: &str) -> Result<Settings, ConfigError> {
        try_load(&format!(
            "{{ gateway: {{ auth: {{ token: {{ exec: {{ argv: {argv}{more} }} }} }} }} }}"
        ))
    }

    #[test]
    fn a_secret_may_be_what_a_program_prints() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), &format!("echo {STRONG}"));
        let settings = token(&format!("[{path:?}]"), "").unwrap();
        assert_eq!(settings.main().auth.active().unwrap().expose(), STRONG);
        // No shell looks at the arguments, and nothing of our environment is there unless it is named.
        let path = program(
            dir.path(),
            "echo \"$1-$HOST-$SECRET-$HOME-0123456789abcdef\"",
        );
        let settings = token(
            &format!("[{path:?}, \"$(id);`id`\"]"),
            ", env: [\"HOST\", \"NOPE\"]",
        )
        .unwrap();
        assert_eq!(
            settings.main().auth.active().unwrap().expose(),
            "$(id);`id`-gw.example---0123456789abcdef"
        );
    }

    #[test]
    fn a_program_that_is_not_to_be_trusted_or_does_not_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, word) in [
            ("exit 3", "ended with code 3"),
            ("kill -9 $$", "ended by a signal"),
            ("sleep 60 & wait", "longer than 300 ms"),
            ("sleep 60 &", "longer than 300 ms"),
            (
                "head -c 70000 /dev/zero | tr '\\0' x",
                "more than 65536 bytes",
            ),
            ("printf '\\377\\376'", "not UTF-8"),
            ("true", "blank"),
            ("echo changeme", "placeholder"),
        ] {
            let path = program(dir.path(), text);
            let error = token(&format!("[{path:?}]"), ", timeoutMs: 300")
                .unwrap_err()
                .to_string();
            // What still holds the output is told in one of two ways, whichever is seen first.
            let fits = error.contains(word) || (text.ends_with('&') && error.contains("no end"));
            assert!(fits, "{text}: {error}");
        }
        let path = program(dir.path(), &format!("echo {STRONG}"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o722)).unwrap();
        let error = token(&format!("[{path:?}]"), "").unwrap_err().to_string();
        assert!(error.contains("can be changed by other users"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = token(&format!("[{path:?}]"), "").unwrap_err().to_string();
        assert!(
            error.contains("can be changed by other users"),
            "its folder: {error}"
        );
        for (argv, word) in [
            ("[\"echo\", \"x\"]", "full path"),
            ("[\"/no/such/program\"]", "No such file"),
            ("[\"/tmp\"]", "not a file"),
            ("[]", "not empty"),
            ("\"echo\"", "not empty"),
        ] {
            let error = token(argv, "").unwrap_err().to_string();
            assert!(error.contains(word), "{argv}: {error}");
        }
        for more in [", timeoutMs: 5", ", shell: true", ", env: 3"] {
            assert!(token("[\"/bin/true\"]", more).is_err(), "{more}");
        }
    }
}
