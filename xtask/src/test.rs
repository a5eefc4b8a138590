//! `cargo xtask test [--long]`: everything that says whether the project works, installing what that needs.

use std::path::PathBuf;
use std::process::Command;

use crate::ui::{Count, Result, Steps};
use crate::{clients, deps, fuzz, guests, schema, serve, sh, tools};

/// What the tests are told by environment variables (absolute paths).
struct Setting {
    long: bool,
    vars: Vec<(&'static str, PathBuf)>,
}

impl Setting {
    fn apply(&self, cmd: &mut Command) {
        for (name, value) in &self.vars {
            cmd.env(name, value);
        }
        if self.long {
            cmd.env("GATEWAY_LONG", "1");
        } else {
            cmd.env_remove("GATEWAY_LONG");
        }
        // State of the machine's user must not reach the tests.
        cmd.env_remove("GATEWAY_TOKEN")
            .env_remove("GATEWAY_STATE_DIR");
    }
}

/// The command.
pub fn main(args: &[String]) -> Result<()> {
    let mut long = false;
    for arg in args {
        match arg.as_str() {
            "--long" => long = true,
            other => {
                return Err(format!(
                    "no option `{other}`.\nNext: cargo xtask test [--long]"
                ));
            }
        }
    }
    let mut steps = Steps::new("test");
    let mut setting = Setting {
        long,
        vars: Vec::new(),
    };

    steps.check("C compiler", || tools::ensure_cc().map(|()| String::new()));
    steps.check("format", || {
        sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
        sh::run(
            sh::cargo()
                .args(["fmt", "--all", "--check"])
                .current_dir(sh::root().join("guest-plugins")),
        )
        .map(|()| String::new())
    });
    steps.check("dependencies", deps::check);
    let tools_found = ensure_tools(&mut steps, &mut setting);

    let guests_built = guests::build(&mut steps);
    count_step(&mut steps, guests_built);
    setting
        .vars
        .push(("GATEWAY_WASM_DIR", guests::guests_dir()));
    steps.check("clippy", || {
        sh::run(
            with_features(sh::cargo().args(["clippy", "--locked", "--workspace", "--all-targets"]))
                .args(["--", "-D", "warnings"]),
        )
        .map(|()| String::new())
    });
    steps.check("clippy of the guests", || {
        sh::run(guest_cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))
            .map(|()| String::new())
    });
    steps.run_counted("guest logic", || {
        let (count, result) = sh::run_counting(&mut guest_cargo("test"));
        (count, result.map(|()| String::new()))
    });
    let built = steps.check("build everything", || {
        sh::run(with_features(sh::cargo().args([
            "build",
            "--locked",
            "--workspace",
            "--all-targets",
        ])))
        .map(|()| String::new())
    });
    if built {
        setting
            .vars
            .push(("GATEWAY_BIN", serve::binary_path("dev")));
        steps.run_counted("tests of the workspace", || run_tests(&setting));
        steps.run_counted("examples in the docs", || {
            let mut cmd = sh::cargo();
            with_features(cmd.args(["test", "--locked", "--workspace", "--doc"]));
            setting.apply(&mut cmd);
            let (count, result) = sh::run_counting(&mut cmd);
            (count, result.map(|()| String::new()))
        });
        steps.check("generated pages", || {
            schema::check_with(&sh::target_dir().join("debug/examples/schema"))
        });
        match &tools_found {
            Some((python, node)) => clients::run(&mut steps, python, node, long),
            None => println!("[xtask test] clients of others: left out, their tools are missing"),
        }
    }
    if long {
        fuzz::all(&mut steps);
    }
    let mut coverage = None;
    steps.check("security coverage", || {
        let found = schema::settle_coverage(true)?;
        let line = found.line();
        coverage = Some(line.clone());
        Ok(line)
    });
    steps.summary();
    if let Some(line) = coverage {
        println!("\n{line}");
    }
    let count = steps.count;
    let failed = steps.any_failed() || count.failed > 0;
    println!("\n{} passed, {} failed", count.passed, count.failed);
    if failed {
        Err("the failures are in the table above".to_owned())
    } else {
        Ok(())
    }
}

/// `cargo xtask tools`: only installs what the tests need.
pub fn tools_only() -> Result<()> {
    let mut steps = Steps::new("tools");
    let mut setting = Setting {
        long: false,
        vars: Vec::new(),
    };
    steps.check("C compiler", || tools::ensure_cc().map(|()| String::new()));
    ensure_tools(&mut steps, &mut setting);
    steps.summary();
    for (name, value) in &setting.vars {
        println!("{name}={}", value.display());
    }
    steps.into_result()
}

/// `cargo xtask clients`: only the clients of others, against the dev build of the gateway as it is now.
pub fn clients_only() -> Result<()> {
    let mut steps = Steps::new("clients");
    let mut setting = Setting {
        long: false,
        vars: Vec::new(),
    };
    if let Some((python, node)) = ensure_tools(&mut steps, &mut setting)
        && guests::build(&mut steps)
        && steps.check("build gateway", || {
            sh::run(with_features(
                sh::cargo().args(["build", "--locked", "-p", "gateway"]),
            ))
            .map(|()| String::new())
        })
    {
        clients::run(&mut steps, &python, &node, false);
    }
    steps.summary();
    steps.into_result()
}

fn count_step(steps: &mut Steps, ok: bool) {
    steps.count.add(if ok {
        Count {
            passed: 1,
            failed: 0,
        }
    } else {
        Count {
            passed: 0,
            failed: 1,
        }
    });
}

fn ensure_tools(steps: &mut Steps, setting: &mut Setting) -> Option<(PathBuf, tools::Node)> {
    let mut python = None;
    steps.check("Python packages", || {
        let found = tools::ensure_python()?;
        setting.vars.push(("GATEWAY_PYTHON", found.clone()));
        python = Some(found);
        Ok(String::new())
    });
    let mut node = None;
    if let Some(python) = &python {
        steps.check("node and npm packages", || {
            let found = tools::ensure_node(python)?;
            setting.vars.push(("GATEWAY_NODE", found.node.clone()));
            setting
                .vars
                .push(("GATEWAY_NODE_MODULES", found.home.join("node_modules")));
            node = Some(found);
            Ok(String::new())
        });
    }
    steps.check("Chromium", || {
        let found = tools::ensure_chromium()?;
        let note = found.display().to_string();
        setting.vars.push(("GATEWAY_CHROMIUM", found));
        Ok(note)
    });
    steps.check("strace", || {
        let found = tools::ensure_strace()?;
        let note = found.display().to_string();
        setting.vars.push(("GATEWAY_STRACE", found));
        Ok(note)
    });
    // Without it the tests of discovery are left out, and say so.
    steps.run("avahi", || match tools::ensure_avahi() {
        Ok(found) => {
            setting.vars.extend(found);
            Ok(String::new())
        }
        Err(why) => {
            println!("!!! the tests of discovery will be LEFT OUT: {why}");
            Ok("LEFT OUT: cannot be had here".to_owned())
        }
    });
    // Without it the test of the recipe for a reverse proxy is left out, and says so.
    steps.run("nginx", || match tools::ensure_nginx() {
        Ok(found) => {
            let note = found.display().to_string();
            setting.vars.push(("GATEWAY_NGINX", found));
            Ok(note)
        }
        Err(why) => {
            println!("!!! the test of the reverse proxy will be LEFT OUT: {why}");
            Ok("LEFT OUT: cannot be had here".to_owned())
        }
    });
    steps.check("faketime", || {
        let found = tools::ensure_faketime()?;
        let note = found.display().to_string();
        setting.vars.push(("GATEWAY_FAKETIME", found));
        Ok(note)
    });
    python.zip(node)
}

/// The WebSocket echo that conformance suites need is in test builds only. Named for each cargo call alike, so that all share one build.
pub fn with_features(cmd: &mut Command) -> &mut Command {
    cmd.args(["--features", "gateway-server/test-echo"])
}

/// Guests compiled for this machine: their logic without the join to wasm.
fn guest_cargo(verb: &str) -> Command {
    let mut cmd = sh::cargo();
    cmd.current_dir(sh::root().join("guest-plugins"));
    cmd.args([verb, "--locked", "--workspace", "--target-dir"])
        .arg(sh::target_dir().join("guests-build"));
    cmd
}

fn run_tests(setting: &Setting) -> (Count, Result<String>) {
    let nextest =
        sh::which("cargo-nextest").is_some() && std::env::var_os("GATEWAY_NO_NEXTEST").is_none();
    let mut cmd = sh::cargo();
    if nextest {
        cmd.args([
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--all-targets",
            "--no-fail-fast",
            "--profile",
        ]);
        cmd.arg(if setting.long { "long" } else { "default" });
    } else {
        cmd.args([
            "test",
            "--locked",
            "--workspace",
            "--all-targets",
            "--no-fail-fast",
        ]);
    }
    with_features(&mut cmd);
    setting.apply(&mut cmd);
    let (count, result) = sh::run_counting(&mut cmd);
    (
        count,
        result.map(|()| {
            if nextest {
                "nextest".to_owned()
            } else {
                "cargo test".to_owned()
            }
        }),
    )
}
