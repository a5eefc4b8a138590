//! The file of a running gateway: broken at the start, replaced, rolled back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_config::*;
use proptest::prelude::*;

fn file(dir: &Path) -> ConfigFile {
    ConfigFile::new(dir, None, Overrides::default(), Arc::new(|_| None))
}

/// A state directory that a gateway has run on, and the text of its file.
fn ran() -> (tempfile::TempDir, ConfigFile, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let made = init_state_dir(dir.path()).unwrap();
    let file = file(dir.path());
    let started = file.start().unwrap();
    assert!(started.refused.is_none());
    file.keep(&started.settings).unwrap();
    (dir, file, made.config_path)
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The gateway starts with `bytes` as its file: with them, or with the last good ones; the file is not touched.
fn starts_with(file: &ConfigFile, path: &Path, bytes: &[u8]) -> Started {
    std::fs::write(path, bytes).unwrap();
    let started = file.start().expect("it starts with the last good one");
    assert_eq!(std::fs::read(path).unwrap(), bytes, "the file was changed");
    if let Some(error) = &started.refused {
        assert!(!error.problems.is_empty() && !error.next.is_empty());
        assert_eq!(started.settings.gateway.port, DEFAULT_PORT);
    }
    started
}

/// Covers: F5.
#[test]
fn a_file_cut_anywhere_does_not_keep_the_gateway_from_starting() {
    let (_dir, file, path) = ran();
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for cut in 0..whole.len() {
        if starts_with(&file, &path, &whole[..cut]).refused.is_some() {
            refused += 1;
        }
    }
    // Only cuts behind the last brace leave something whole.
    assert!(refused > whole.len() - 4, "{refused} of {}", whole.len());
    assert!(starts_with(&file, &path, &whole).refused.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Covers: F5.
    #[test]
    fn a_flipped_bit_does_not_keep_it_from_starting(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (_dir, file, path) = ran();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(file.start().is_ok());
        prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

/// Covers: F5.
#[test]
fn whatever_stands_in_the_file_s_place_it_starts_and_says_what_is_wrong() {
    let (_dir, file, path) = ran();
    let whole = std::fs::read(&path).unwrap();
    let with = |head: &[u8], tail: &[u8]| [head, &whole, tail].concat();
    assert!(
        starts_with(&file, &path, &with(b"\xef\xbb\xbf", b""))
            .refused
            .is_none()
    );
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("blank", b" \n\t".to_vec()),
        ("NUL", vec![0; 512]),
        ("NUL behind", with(b"", &[0; 16])),
        ("not UTF-8", with(b"\xff\xfe", b"")),
        ("huge", vec![b' '; 2 * 1024 * 1024]),
        ("another format", b"gateway:\n  port: 1\n".to_vec()),
    ] {
        assert!(
            starts_with(&file, &path, &bytes).refused.is_some(),
            "{what}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    let gone = file.start().unwrap();
    assert!(gone.refused.unwrap().to_string().contains("no such file"));
    assert!(
        !path.exists(),
        "it is not written anew: that would lose the tenants"
    );
    assert!(
        !init_state_dir(path.parent().unwrap())
            .unwrap()
            .config_created
    );

    std::fs::create_dir(&path).unwrap();
    assert!(
        file.start()
            .unwrap()
            .refused
            .unwrap()
            .to_string()
            .contains("not a regular file")
    );
    std::fs::remove_dir(&path).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::os::unix::fs::symlink("nowhere.json5", &path).unwrap();
        assert!(
            file.start().unwrap().refused.is_some(),
            "a link that leads nowhere"
        );
        std::fs::remove_file(&path).unwrap();
        let other = path.with_file_name("elsewhere.json5");
        std::fs::write(&other, &whole).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(
            file.start().unwrap().refused.is_none(),
            "a link to a good file"
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &whole).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = file.start().unwrap();
        assert!(open.refused.is_none());
        assert!(
            open.settings
                .warnings
                .iter()
                .any(|w| w.contains("chmod 600")),
            "{:?}",
            open.settings.warnings
        );
        assert_eq!(mode(&path), 0o644, "it is the user's file");
        // Root reads everything; everybody else is kept out.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(file.start().is_ok());
    }
}

#[test]
fn without_a_last_good_one_the_place_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let made = init_state_dir(dir.path()).unwrap();
    std::fs::write(&made.config_path, "{\n  gateway: { prot: 1 },\n}\n").unwrap();
    let error = file(dir.path()).start().unwrap_err();
    assert_eq!(error.place().unwrap().1, 2);
    std::fs::create_dir_all(dir.path().join("config")).unwrap();
    std::fs::write(dir.path().join("config/last-good.json"), "{\"version\":1").unwrap();
    assert!(
        file(dir.path()).start().is_err(),
        "a torn last good one is none"
    );
}

#[test]
fn the_last_good_one_brings_what_it_included() {
    let (dir, file, path) = ran();
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/log.json5"), "{ level: \"debug\" }").unwrap();
    std::fs::write(&path, "{ logging: { $include: \"parts/log.json5\" } }").unwrap();
    let settings = file.load().unwrap();
    assert_eq!(settings.logging.level, LogLevel::Debug);
    let hash = settings.hash.clone();
    file.keep(&settings).unwrap();
    #[cfg(unix)]
    assert_eq!(mode(&dir.path().join("config/last-good.json")), 0o600);
    std::fs::remove_file(dir.path().join("parts/log.json5")).unwrap();
    let started = file.start().unwrap();
    assert!(started.refused.is_some());
    assert_eq!(started.settings.logging.level, LogLevel::Debug);
    assert_eq!(started.settings.hash, hash);
    std::fs::write(dir.path().join("parts/log.json5"), "{ level: \"warn\" }").unwrap();
    assert_ne!(
        file.load().unwrap().hash,
        hash,
        "the hash covers included files"
    );
}

/// Covers: N12.
#[test]
fn an_edit_is_written_whole_and_only_over_what_it_was_made_from() {
    let (dir, file, path) = ran();
    let base = file.read().unwrap();
    let edit = |text: &str| {
        file.edited(
            &Snapshot {
                text: text.to_owned(),
                hash: String::new(),
            },
            &[KeyEdit {
                steps: vec!["logging".into(), "level".into()],
                value: Some("debug".into()),
            }],
        )
        .unwrap()
    };
    let text = edit(&base.text);
    file.check(&text).unwrap();
    std::fs::write(&path, format!("{}\n// mine\n", base.text)).unwrap();
    assert!(!file.replace(&base, &text).unwrap(), "somebody was faster");
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .ends_with("// mine\n")
    );

    let base = file.read().unwrap();
    let text = edit(&base.text);
    assert!(file.replace(&base, &text).unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert!(text.contains("// mine") && text.contains("level: \"debug\""));
    let history = file.history().unwrap();
    assert!(history.iter().any(|b| b.text == base.text));
    // The ring is bounded, and its newest is the last predecessor.
    for n in 0..HISTORY_MAX_FILES + 3 {
        let base = file.read().unwrap();
        assert!(file.replace(&base, &format!("{{ /* {n} */ }}")).unwrap());
    }
    let history = file.history().unwrap();
    assert_eq!(history.len(), HISTORY_MAX_FILES);
    assert_eq!(history[0].number, 1);
    assert_eq!(
        history[0].text,
        format!("{{ /* {} */ }}", HISTORY_MAX_FILES + 1)
    );
    #[cfg(unix)]
    {
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&dir.path().join("config")), 0o700);
        assert_eq!(mode(&dir.path().join("config/history")), 0o700);
        assert!(history.iter().all(|b| mode(&b.path) == 0o600));
    }
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_linked_file_stays_linked() {
    let (dir, file, path) = ran();
    let real = dir.path().join("real.json5");
    std::fs::rename(&path, &real).unwrap();
    std::os::unix::fs::symlink("real.json5", &path).unwrap();
    let base = file.read().unwrap();
    assert!(file.replace(&base, "{ /* new */ }").unwrap());
    assert!(path.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "{ /* new */ }");
}

#[test]
fn a_change_of_a_file_is_told_once_it_has_settled() {
    let (dir, file, path) = ran();
    let (tell, told) = std::sync::mpsc::channel();
    let (say, said) = std::sync::mpsc::channel();
    let files = file.load().unwrap().written.files().to_vec();
    assert!(files.contains(&path));
    assert!(
        files
            .iter()
            .any(|f| f.ends_with("secrets/main/gateway-token"))
    );
    let _watcher = Watcher::start(
        files,
        move || tell.send(()).unwrap(),
        move |mode| say.send(mode).unwrap(),
    )
    .unwrap();
    let patience = std::time::Duration::from_secs(60);
    said.recv_timeout(patience).unwrap();
    told.recv_timeout(patience)
        .expect("what changed before there was a watch");
    // In place, renamed over, and a secret.
    std::fs::write(&path, "{}").unwrap();
    told.recv_timeout(patience).unwrap();
    let beside = dir.path().join(".new");
    std::fs::write(&beside, "{ logging: {} }").unwrap();
    std::fs::rename(&beside, &path).unwrap();
    told.recv_timeout(patience).unwrap();
    std::fs::write(dir.path().join("secrets/main/gateway-token"), "x").unwrap();
    told.recv_timeout(patience).unwrap();
    // A storm is a few signals.
    for n in 0..500 {
        std::fs::write(&path, format!("{{ /* {n} */ }}")).unwrap();
    }
    told.recv_timeout(patience).unwrap();
    let mut more = 0;
    while told.recv_timeout(std::time::Duration::from_secs(3)).is_ok() {
        more += 1;
    }
    assert!(more < 50, "{more} signals for 500 writes");
}
