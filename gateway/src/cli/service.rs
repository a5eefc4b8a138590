//! `gateway service print | install | uninstall | status`: a systemd unit for the gateway of this state directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Subcommand;
use gateway_config::durable::{self, Existing};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, clean, print, print_text, text};

/// Name of the unit.
const UNIT: &str = "gateway.service";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the unit; nothing is written.
    Print(Where),
    /// Write the unit, check it, and start the service now and at every boot (or login).
    Install {
        #[command(flatten)]
        place: Where,
        /// Only write the file.
        #[arg(long)]
        no_start: bool,
    },
    /// Stop the service and remove its unit. The state directory stays.
    Uninstall(Where),
    /// Whether it is installed and runs.
    Status(Where),
}

#[derive(Debug, clap::Args)]
pub struct Where {
    /// For the whole machine (a user of its own, stronger walls) instead of for this user; needs root.
    #[arg(long)]
    system: bool,
    /// Directory of the unit [default: systemd's for this user, or for the machine].
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
}

impl Where {
    /// Systemd's own place for this user, or for the machine.
    pub fn usual(system: bool) -> Self {
        Self {
            system,
            unit_dir: None,
        }
    }

    fn path(&self) -> Result<PathBuf, Failure> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let dir = match (&self.unit_dir, self.system) {
            (Some(dir), _) => dir.clone(),
            (None, true) => PathBuf::from("/etc/systemd/system"),
            (None, false) => set("XDG_CONFIG_HOME")
                .filter(|p| p.is_absolute())
                .or_else(|| set("HOME").map(|h| h.join(".config")))
                .map(|d| d.join("systemd").join("user"))
                .ok_or_else(|| {
                    Failure::new(
                        Exit::Usage,
                        "there is no home directory",
                        "name one with --unit-dir DIR",
                    )
                })?,
        };
        Ok(dir.join(UNIT))
    }

    fn systemctl(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = Process::new("systemctl");
        if !self.system {
            command.arg("--user");
        }
        let failed = |why: String| {
            Failure::new(
                Exit::Failure,
                format!("systemctl {}: {why}", args.join(" ")),
                "is systemd running here? `gateway service print` gives the unit for another place",
            )
        };
        let output = command
            .args(args)
            .output()
            .map_err(|e| failed(e.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            return Ok(said);
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(if why.is_empty() { said } else { why }))
    }
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Print(place) => print_text(unit(global, &place)?.trim_end()),
        Command::Install { place, no_start } => install(global, &place, no_start),
        Command::Uninstall(place) => uninstall(global, &place),
        Command::Status(place) => status(global, &place),
    }
}

/// A word of an `Exec…=` line: quoted, with what systemd would read otherwise escaped.
fn quoted(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn unit(global: &Global, place: &Where) -> Result<String, Failure> {
    let program = std::env::current_exe()?;
    let program = program.canonicalize().unwrap_or(program);
    let mut exec = vec![program.display().to_string(), "serve".to_owned()];
    let given = global.state_dir.is_some();
    if !place.system || given {
        exec.push("--state-dir".to_owned());
        exec.push(
            std::path::absolute(global.state_dir()?)?
                .display()
                .to_string(),
        );
    }
    if let Some(config) = &global.config {
        exec.push("--config".to_owned());
        exec.push(std::path::absolute(config)?.display().to_string());
    }
    if let Some(bad) = exec.iter().find(|w| w.chars().any(char::is_control)) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{bad:?} cannot stand in a unit"),
            "use a path without control characters",
        ));
    }
    let exec: Vec<String> = exec.iter().map(|w| quoted(w)).collect();
    let mut unit = format!(
        "# Written by `gateway service install`.\n\
         [Unit]\n\
         Description=Gateway for AI agents\n\
         {}\
         StartLimitIntervalSec=300\n\
         StartLimitBurst=5\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={}\n\
         ExecReload=/bin/kill -HUP $MAINPID\n\
         Restart=on-failure\n\
         RestartSec=2\n\
         # A configuration that is wrong does not get better by trying again.\n\
         RestartPreventExitStatus=78 2\n\
         WatchdogSec=60\n\
         TimeoutStartSec=120\n\
         TimeoutStopSec=30\n\
         KillMode=mixed\n\
         LimitNOFILE=65536\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\
         LockPersonality=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         SystemCallArchitectures=native\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n",
        // The manager of a user knows no network.
        if place.system {
            "After=network-online.target\nWants=network-online.target\n"
        } else {
            ""
        },
        exec.join(" ")
    );
    // Guests are compiled in the process, so MemoryDenyWriteExecute= would stop them.
    if place.system {
        unit.push_str(
            "PrivateTmp=yes\n\
             PrivateDevices=yes\n\
             ProtectSystem=strict\n\
             ProtectHome=yes\n\
             ProtectClock=yes\n\
             ProtectControlGroups=yes\n\
             ProtectHostname=yes\n\
             ProtectKernelLogs=yes\n\
             ProtectKernelModules=yes\n\
             ProtectKernelTunables=yes\n\
             ProtectProc=invisible\n\
             RestrictNamespaces=yes\n\
             RemoveIPC=yes\n\
             CapabilityBoundingSet=\n\
             AmbientCapabilities=\n",
        );
        if given {
            let dir = std::path::absolute(global.state_dir()?)?;
            // Writing into a String does not fail.
            let _ = writeln!(
                unit,
                "ReadWritePaths={}",
                quoted(&dir.display().to_string())
            );
        } else {
            unit.push_str(
                "DynamicUser=yes\n\
                 StateDirectory=gateway\n\
                 StateDirectoryMode=0700\n\
                 Environment=GATEWAY_STATE_DIR=%S/gateway\n",
            );
        }
    }
    let _ = write!(
        unit,
        "\n[Install]\nWantedBy={}\n",
        if place.system {
            "multi-user.target"
        } else {
            "default.target"
        }
    );
    Ok(unit)
}

/// Writes the unit, has it checked, and starts it if that is wanted.
pub fn put(global: &Global, place: &Where, no_start: bool) -> Result<Value, Failure> {
    let text_of = unit(global, place)?;
    let path = place.path()?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    durable::write(&path, text_of.as_bytes(), Existing::Replace)?;
    let checked = checked(&path);
    if !no_start {
        place.systemctl(&["daemon-reload"])?;
        place.systemctl(&["enable", "--now", UNIT])?;
    }
    Ok(json!({ "unit": path, "started": !no_start, "verify": checked.0, "exposure": checked.1 }))
}

/// Whether the unit is there as this program would write it.
pub fn is_current(global: &Global, place: &Where) -> Result<bool, Failure> {
    let wanted = unit(global, place)?;
    Ok(std::fs::read_to_string(place.path()?).is_ok_and(|had| had == wanted))
}

fn install(global: &Global, place: &Where, no_start: bool) -> Result<(), Failure> {
    let told = put(global, place, no_start)?;
    print(global.json, &told, |told| {
        let mut lines = vec![format!("wrote    {}", text(told, "unit"))];
        lines.push(format!("verify   {}", text(told, "verify")));
        if told["exposure"].is_string() {
            lines.push(format!("exposure {}", text(told, "exposure")));
        }
        lines.push(
            if no_start {
                "next: systemctl daemon-reload, then systemctl enable --now gateway (with --user for a unit of this user)"
            } else {
                "next: gateway service status; a unit of a user runs after logout with `loginctl enable-linger`"
            }
            .to_owned(),
        );
        lines.join("\n")
    })
}

/// What `systemd-analyze` says of the unit, and how exposed it finds it; nothing where the program is not there.
fn checked(path: &Path) -> (Value, Value) {
    let analyze = |args: &[&str]| {
        // Without --user: that would need a running manager, and the words of a unit are the same.
        Process::new("systemd-analyze")
            .args(args)
            .arg(path)
            .output()
            .ok()
    };
    let verify = analyze(&["verify"]).map(|o| {
        let said = String::from_utf8_lossy(&o.stderr).trim().to_owned();
        if o.status.success() && said.is_empty() {
            "sound".to_owned()
        } else {
            said
        }
    });
    let exposure = analyze(&["security", "--offline=true", "--no-pager"]).and_then(|o| {
        let said = String::from_utf8_lossy(&o.stdout).into_owned();
        let line = said.lines().rev().find(|l| l.contains("exposure level"))?;
        Some(
            line.trim_start_matches(|c: char| !c.is_ascii_alphabetic())
                .to_owned(),
        )
    });
    (
        json!(verify.unwrap_or_else(|| "not checked: there is no systemd-analyze".to_owned())),
        json!(exposure),
    )
}

fn uninstall(global: &Global, place: &Where) -> Result<(), Failure> {
    let path = place.path()?;
    if !path.exists() {
        return Err(Failure::new(
            Exit::Failure,
            format!("{} is not there", path.display()),
            "`gateway service status` says what is installed (--system for the machine's)",
        ));
    }
    // With a directory of one's own systemd does not know the unit.
    if place.unit_dir.is_none() {
        place.systemctl(&["disable", "--now", UNIT])?;
    }
    std::fs::remove_file(&path)?;
    if place.unit_dir.is_none() {
        place.systemctl(&["daemon-reload"])?;
    }
    print(global.json, &json!({ "removed": path }), |_| {
        format!(
            "removed  {}\nnext: the state directory stays; remove it by hand if it is not wanted",
            clean(&path.display().to_string())
        )
    })
}

fn status(global: &Global, place: &Where) -> Result<(), Failure> {
    let path = place.path()?;
    let installed = path.exists();
    let current = installed && is_current(global, place).unwrap_or(false);
    // It ends with another code than 0 when the service does not run; what it says is what is wanted.
    let mut ask = Process::new("systemctl");
    if !place.system {
        ask.arg("--user");
    }
    let active = ask
        .args(["is-active", UNIT])
        .output()
        .ok()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| "unknown".to_owned());
    let told =
        json!({ "unit": path, "installed": installed, "current": current, "active": active });
    print(global.json, &told, |told| {
        let state = match (installed, current) {
            (false, _) => "not installed",
            (true, true) => "installed",
            (true, false) => "installed, and not as this program would write it",
        };
        format!(
            "{state:12} {}\nactive       {}",
            clean(&path.display().to_string()),
            text(told, "active")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_exec_line_are_quoted() {
        assert_eq!(quoted("/a b/c"), "\"/a b/c\"");
        assert_eq!(quoted("a\"b\\c%d$e"), "\"a\\\"b\\\\c%%d$$e\"");
    }
}
