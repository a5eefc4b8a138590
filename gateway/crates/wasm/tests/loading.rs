//! Loading plugins: what is refused and why, the cache of compiled code, boot scripts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{CAPABILITIES, HOSTILE, TestHost, account, command, guest, manifest, plugin_host};
use futures_util::future::BoxFuture;
use gateway_wasm::{
    BootContext, BootHost, BootReason, Bundled, CommitReport, Effects, GatewayCallError, HostError,
    Level, LoadErrorKind, Package, Pins, PluginHost, Source, WasmOptions, run_boot,
};
use parking_lot::Mutex;

fn write(dir: &Path, id: &str, manifest: &str, wasm: &[u8]) {
    let dir = dir.join(id);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("plugin.toml"), manifest).unwrap();
    std::fs::write(dir.join(format!("{id}.wasm")), wasm).unwrap();
}

#[tokio::test]
async fn a_directory_is_loaded_and_one_bad_plugin_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = guest(HOSTILE, "channel");
    write(
        dir.path(),
        "good",
        &manifest("good", CAPABILITIES, ""),
        &wasm,
    );
    write(
        dir.path(),
        "greedy",
        &manifest("greedy", r#"["log", "kv"]"#, ""),
        &wasm,
    );
    write(
        dir.path(),
        "named",
        &manifest("other", CAPABILITIES, ""),
        &wasm,
    );
    write(
        dir.path(),
        "text",
        &manifest("text", CAPABILITIES, ""),
        b"hello",
    );
    let digest = manifest("digest", CAPABILITIES, "").replace(
        "\"digest.wasm\"",
        &format!("\"digest.wasm\", sha256 = \"{}\"", "0".repeat(64)),
    );
    write(dir.path(), "digest", &digest, &wasm);
    write(
        dir.path(),
        "typo",
        &manifest("typo", CAPABILITIES, "[run]\nlifecicle = \"burst\""),
        &wasm,
    );
    let boot = manifest("world", "[]", "[boot]\nwhen = [\"tenant-start\"]")
        .replace("gateway:channel/channel", "gateway:boot/boot-script");
    write(dir.path(), "world", &boot, &guest(&no_imports(), "channel"));
    std::fs::create_dir(dir.path().join("not-a-plugin")).unwrap();
    let host = plugin_host(4);
    let mut loaded = Vec::new();
    let mut refused = std::collections::BTreeMap::new();
    for r in host.load_all(Some(dir.path()), &[]).await {
        match r {
            Ok(p) => loaded.push(p),
            Err(e) => {
                refused.insert(e.id, e.kind);
            }
        }
    }
    assert_eq!(
        loaded
            .iter()
            .map(|p| p.manifest.id.as_str())
            .collect::<Vec<_>>(),
        ["good"]
    );
    assert!(loaded[0].descriptor.is_some());
    // The names of what it may not import, all of them.
    let LoadErrorKind::Imports(names) = &refused["greedy"] else {
        panic!("{:?}", refused["greedy"])
    };
    for name in ["clock", "random", "http", "inbound", "timer"] {
        assert!(
            names.contains(&format!("gateway:host/{name}@0.1.0")),
            "{names:?}"
        );
    }
    assert!(
        !names
            .iter()
            .any(|n| n.contains("types") || n.contains("/kv@") || n.contains("/log@")),
        "{names:?}"
    );
    assert!(matches!(&refused["named"], LoadErrorKind::Name(id) if id == "other"));
    assert!(matches!(&refused["text"], LoadErrorKind::Invalid(_)));
    assert!(matches!(&refused["digest"], LoadErrorKind::Digest { .. }));
    assert!(refused["typo"].to_string().contains("lifecicle"));
    assert!(
        matches!(&refused["world"], LoadErrorKind::World(_)),
        "{:?}",
        refused["world"]
    );
    assert_eq!(refused.len(), 6);
    let io = TestHost::new("a");
    account(&host, &loaded[0], &io)
        .event(command("e1"))
        .await
        .unwrap();
    assert_eq!(io.ids(), ["m1"]);
    assert!(matches!(
        host.load_all(Some(Path::new("/nowhere")), &[]).await[..],
        [Err(_)]
    ));
}

/// A pin is over manifest and component together: a wider permission, another component, both are refused, and so is a
/// plugin without a pin where only pinned ones are wanted. The pin of the manifest is over the component.
///
/// Covers: S2, S3.
#[tokio::test]
async fn what_is_pinned_is_what_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = guest(HOSTILE, "channel");
    let text = manifest("pinned", CAPABILITIES, "");
    write(dir.path(), "pinned", &text, &wasm);
    write(
        dir.path(),
        "loose",
        &manifest("loose", CAPABILITIES, ""),
        &wasm,
    );
    let place = dir.path().join("pinned");
    let digest = Package::read(&place).unwrap().digest;
    let host = |only: bool| {
        PluginHost::new(WasmOptions {
            pool_instances: 4,
            pins: Pins {
                digests: [("pinned".to_owned(), digest.clone())].into(),
                only,
            },
            ..WasmOptions::new()
        })
        .unwrap()
    };
    let free = host(false);
    assert_eq!(
        free.load_all(Some(dir.path()), &[])
            .await
            .iter()
            .filter(|r| r.is_ok())
            .count(),
        2
    );
    let strict = host(true);
    strict.load(&place).await.unwrap();
    let refused = strict.load(&dir.path().join("loose")).await.unwrap_err();
    assert!(
        matches!(refused.kind, LoadErrorKind::NotPinned(_)),
        "{refused}"
    );
    // The manifest alone changes: one comment, or one permission.
    let wider = manifest(
        "pinned",
        CAPABILITIES,
        "[[net.http]]\nhost = \"example.org\"",
    );
    for (text, wasm) in [
        (format!("{text}\n# changed\n"), wasm.clone()),
        (wider, wasm.clone()),
        (
            text.clone(),
            guest(&format!("{HOSTILE} "), "channel")
                .into_iter()
                .chain([0, 1, 0])
                .collect(),
        ),
    ] {
        write(dir.path(), "pinned", &text, &wasm);
        let refused = free.load(&place).await.unwrap_err();
        assert!(
            matches!(&refused.kind, LoadErrorKind::Pinned { expected, .. } if *expected == digest),
            "{refused}"
        );
        assert!(
            refused
                .to_string()
                .contains("gateway config set plugins.pins"),
            "{refused}"
        );
    }
    write(dir.path(), "pinned", &text, &wasm);
    free.load(&place).await.unwrap();
    // Bytes do not move from one part to the other without another digest.
    let component = manifest("pinned", CAPABILITIES, "").replace(
        "\"pinned.wasm\"",
        &format!("\"pinned.wasm\", sha256 = \"{}\"", "0".repeat(64)),
    );
    write(dir.path(), "pinned", &component, &wasm);
    let unpinned = plugin_host(4);
    let refused = unpinned.load(&place).await.unwrap_err();
    assert!(
        matches!(refused.kind, LoadErrorKind::Digest { .. }),
        "{refused}"
    );
}

/// What the program carries is loaded by the rules for folders: same digest, same pins, same permissions. A folder of the same
/// name counts instead, also when it is broken.
///
/// Covers: S2, S3.
#[tokio::test]
async fn what_the_program_carries_is_loaded_by_the_rules_for_folders() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = guest(HOSTILE, "channel");
    let bundled = |id: &'static str, text: String| Bundled {
        id: id.into(),
        manifest: text.into_bytes().into(),
        wasm: wasm.clone().into(),
    };
    let carried = [
        bundled("own", manifest("own", CAPABILITIES, "")),
        bundled("both", manifest("both", CAPABILITIES, "")),
        bundled("broken", manifest("broken", CAPABILITIES, "")),
        bundled("greedy", manifest("greedy", r#"["log"]"#, "")),
        bundled("named", manifest("other", CAPABILITIES, "")),
    ];
    let text = manifest("own", CAPABILITIES, "");
    write(dir.path(), "own", &text, &wasm);
    let on_disk = Package::read(&dir.path().join("own")).unwrap();
    let in_program = Package::bundled(&carried[0]).unwrap();
    assert_eq!(on_disk.digest, in_program.digest);
    std::fs::remove_dir_all(dir.path().join("own")).unwrap();

    let other = format!("{}# of the directory\n", manifest("both", CAPABILITIES, ""));
    write(dir.path(), "both", &other, &wasm);
    write(dir.path(), "broken", "schema = 7", &wasm);
    let host = |digests: &[(&str, &str)], only: bool| {
        let digests = digests
            .iter()
            .map(|(id, digest)| ((*id).to_owned(), (*digest).to_owned()))
            .collect();
        PluginHost::new(WasmOptions {
            pool_instances: 4,
            pins: Pins { digests, only },
            ..WasmOptions::new()
        })
        .unwrap()
    };
    let free = host(&[], false);
    let mut sources = std::collections::BTreeMap::new();
    let mut refused = std::collections::BTreeMap::new();
    for loaded in free.load_all(Some(dir.path()), &carried).await {
        match loaded {
            Ok(plugin) => drop(sources.insert(plugin.manifest.id.clone(), plugin.source.clone())),
            Err(e) => drop(refused.insert(e.id.clone(), e)),
        }
    }
    assert_eq!(
        sources,
        [
            (
                "both".to_owned(),
                Source::Directory(dir.path().join("both"))
            ),
            ("own".to_owned(), Source::Bundled),
        ]
        .into()
    );
    assert!(matches!(refused["broken"].kind, LoadErrorKind::Manifest(_)));
    assert_eq!(refused["broken"].source.name(), "directory");
    assert!(matches!(refused["greedy"].kind, LoadErrorKind::Imports(_)));
    assert!(matches!(refused["named"].kind, LoadErrorKind::Name(_)));
    assert!(
        refused["named"].to_string().starts_with("named (bundled"),
        "{}",
        refused["named"]
    );
    assert_eq!(refused.len(), 3);

    // Without a directory, all of the program's.
    let ids = |loaded: &[Result<_, _>]| loaded.iter().filter(|l| l.is_ok()).count();
    assert_eq!(ids(&free.load_all(None, &carried[..3]).await), 3);
    // A directory that can't be read hides which of the program's plugins it would replace.
    let unreadable = free
        .load_all(Some(Path::new("/nowhere")), &carried[..3])
        .await;
    assert!(matches!(&unreadable[..], [Err(_)]));

    let digest = in_program.digest.as_str();
    let pinned = host(&[("own", digest)], true);
    assert_eq!(ids(&pinned.load_all(None, &carried[..1]).await), 1);
    let loaded = pinned.load_all(None, &carried[1..2]).await;
    assert!(
        matches!(&loaded[..], [Err(e)] if matches!(e.kind, LoadErrorKind::NotPinned(_))),
        "{loaded:?}"
    );
    let another = "0".repeat(64);
    let wrong = host(&[("own", &another)], false);
    let loaded = wrong.load_all(None, &carried[..1]).await;
    assert!(
        matches!(&loaded[..], [Err(e)] if matches!(e.kind, LoadErrorKind::Pinned { .. })),
        "{loaded:?}"
    );
}

/// A module with the channel's exports and no import.
fn no_imports() -> String {
    let name = "gateway:channel/adapter@0.1.0";
    format!(
        r#"(module (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "{name}#describe") (result i32) (i32.const 0))
        (func (export "{name}#init") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "{name}#on-event") (param i32 i32) (result i32) (i32.const 0))
        (func (export "{name}#send") (param i32) (result i32) (i32.const 0))
        (func (export "{name}#edit") (param i32) (result i32) (i32.const 0))
        (func (export "{name}#save") (result i32) (i32.const 0)))"#
    )
}

/// Compiled code is used again if it is ours, and never otherwise.
/// Covers: W7.
#[tokio::test]
async fn compiled_code_is_kept_and_only_our_own_is_used() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = cache.path().join("wasm");
    write(
        dir.path(),
        "good",
        &manifest("good", CAPABILITIES, ""),
        &guest(HOSTILE, "channel"),
    );
    let load = async |key| {
        let host = PluginHost::new(WasmOptions {
            cache_dir: Some(cache.clone()),
            cache_key: key,
            pool_instances: 2,
            ..WasmOptions::new()
        })
        .unwrap();
        let plugin = host.load(&dir.path().join("good")).await.unwrap();
        let io = TestHost::new("a");
        account(&host, &plugin, &io)
            .event(command("e1"))
            .await
            .unwrap();
        plugin.from_cache
    };
    assert!(!load([1; 32]).await);
    assert!(load([1; 32]).await);
    assert!(!load([2; 32]).await, "another host's key");
    assert!(
        !load([1; 32]).await,
        "it was written over with the other key"
    );
    let files: Vec<_> = std::fs::read_dir(&cache)
        .unwrap()
        .flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap())
        .map(|f| f.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(load([1; 32]).await);
    // One byte of the code changed; then cut short.
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    assert!(!load([1; 32]).await);
    std::fs::write(&files[0], b"short").unwrap();
    assert!(!load([1; 32]).await);
    assert!(load([1; 32]).await);
}

/// The host of a boot script.
#[derive(Default)]
struct Boot {
    calls: Mutex<Vec<(String, String, String)>>,
    committed: Mutex<Vec<Effects>>,
}

impl BootHost for Boot {
    fn tenant(&self) -> &str {
        "t"
    }
    fn config_json(&self) -> Arc<str> {
        Arc::from("{}")
    }
    fn log(&self, _: Level, _: &str) {}
    fn kv_get(&self, _: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async { Ok(None) })
    }
    fn kv_list(&self, _: String) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>> {
        self.committed.lock().push(fx);
        Box::pin(async { Ok(CommitReport::default()) })
    }
    fn call(
        &self,
        method: String,
        params: String,
        key: String,
    ) -> BoxFuture<'_, Result<String, GatewayCallError>> {
        self.calls.lock().push((method, params, key));
        Box::pin(async { Ok("{}".to_owned()) })
    }
}

/// A script that calls `chat.inject` and `config.set`, stores a value, and then does `end`.
fn script(end: &str) -> String {
    format!(
        r#"(module
        (import "gateway:host/gateway-call@0.1.0" "call" (func $call (param i32 i32 i32 i32 i32 i32 i32)))
        (import "gateway:host/kv@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
        (memory (export "memory") 2)
        (data (i32.const 1024) "chat.inject") (data (i32.const 1040) "config.set") (data (i32.const 1056) "{{}}") (data (i32.const 1060) "k")
        (global $heap (mut i32) (i32.const 4096))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get 3)) (i32.const 15)) (i32.const -16)))
          (i32.sub (global.get $heap) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))
        (func (export "gateway:boot/script@0.1.0#run") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
          (call $call (i32.const 1024) (i32.const 11) (i32.const 1056) (i32.const 2) (i32.const 1060) (i32.const 1) (i32.const 256))
          (if (i32.load8_u (i32.const 256)) (then unreachable))
          ;; not in the manifest: an error that the script sees
          (call $call (i32.const 1040) (i32.const 10) (i32.const 1056) (i32.const 2) (i32.const 1060) (i32.const 1) (i32.const 256))
          (if (i32.eqz (i32.load8_u (i32.const 256))) (then unreachable))
          (call $set (i32.const 1060) (i32.const 1) (i32.const 1060) (i32.const 1) (i32.const 256))
          {end}
          (i32.const 0)))"#
    )
}

#[tokio::test]
async fn a_boot_script_calls_only_what_its_manifest_names_and_stores_only_if_it_ends_well() {
    let host = plugin_host(2);
    let text = manifest("greet", r#"["kv", "gateway-call"]"#, "[boot]\nwhen = [\"tenant-start\"]\nmethods = [\"chat.inject\"]\ntimeout_ms = 1500\n[limits]\ncpu_ms = 200")
        .replace("gateway:channel/channel", "gateway:boot/boot-script");
    let context = BootContext {
        boot_id: "b1".into(),
        reason: BootReason::TenantStart,
        idempotency_key: "greet:b1".into(),
    };
    for (end, ok) in [
        ("", true),
        ("unreachable", false),
        ("(loop $l (br $l))", false),
    ] {
        let plugin = host
            .load_bytes(&text, &guest(&script(end), "boot-script"))
            .await
            .unwrap();
        let io = Arc::new(Boot::default());
        let report = tokio::time::timeout(
            Duration::from_secs(30),
            run_boot(&host, &plugin, context.clone(), io.clone()),
        )
        .await
        .unwrap();
        assert_eq!(report.ok, ok, "{end}: {report:?}");
        assert_eq!(
            *io.calls.lock(),
            [("chat.inject".to_owned(), "{}".to_owned(), "k".to_owned())]
        );
        assert_eq!(io.committed.lock().len(), usize::from(ok));
    }
}
