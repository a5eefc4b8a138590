//! Which commands of nodes may be called at all, and who may approve and call them. Decided by the platform that was approved,
//! never by what a node says now.

use gateway_config::NodeCommandSettings;
use gateway_protocol::device::plain;
use gateway_protocol::scope::Scope;

/// What kind of machine a node is, by the platform with which its device was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// A telephone or tablet of Apple.
    Ios,
    /// A telephone or tablet with Android.
    Android,
    /// A Mac.
    MacOs,
    /// A machine with Windows.
    Windows,
    /// A machine with Linux.
    Linux,
    /// Anything else.
    Other,
}

impl Platform {
    /// Reads the words of a device. What merely looks like a known name is something else.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text = plain(text);
        let word = text
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        match word {
            "ios" | "ipados" | "iphone" | "ipad" => Self::Ios,
            "android" => Self::Android,
            "macos" | "darwin" | "mac" => Self::MacOs,
            "windows" | "win32" => Self::Windows,
            "linux" => Self::Linux,
            _ => Self::Other,
        }
    }
}

/// Whether a command may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is usual on the platform, or the settings name it.
    Usual,
    /// The settings have to name it.
    NotAllowed,
    /// The settings forbid it.
    Denied,
}

/// Runs programs, reaches into the machine or operates it: what a machine with a host of commands offers.
const HOST: [&str; 13] = [
    "browser.proxy",
    "browser.proxy.upload.v1",
    "desktop.stream",
    "fs.listDir",
    "mcp.tools.call.v1",
    "ollama.chat",
    "ollama.models",
    "system.execApprovals.get",
    "system.execApprovals.set",
    "system.notify",
    "system.run",
    "system.run.prepare",
    "system.which",
];
/// Further ones of such a machine.
const HOST_FILES: [&str; 1] = ["terminal.upload"];
const CANVAS: [&str; 8] = [
    "canvas.present",
    "canvas.hide",
    "canvas.navigate",
    "canvas.eval",
    "canvas.snapshot",
    "canvas.a2ui.push",
    "canvas.a2ui.pushJSONL",
    "canvas.a2ui.reset",
];
/// Reads what a person's own device knows.
const PERSONAL: [&str; 9] = [
    "camera.list",
    "location.get",
    "device.info",
    "device.status",
    "contacts.search",
    "calendar.events",
    "reminders.list",
    "photos.latest",
    "motion.activity",
];
const ANDROID: [&str; 5] = [
    "notifications.list",
    "device.permissions",
    "device.health",
    "callLog.search",
    "motion.pedometer",
];

fn is_usual(command: &str, platform: Platform) -> bool {
    let host = || HOST.contains(&command) || HOST_FILES.contains(&command);
    let own = || CANVAS.contains(&command) || PERSONAL.contains(&command);
    match platform {
        Platform::Linux | Platform::Windows => host(),
        Platform::MacOs => host() || own(),
        Platform::Ios => own() || matches!(command, "system.notify" | "motion.pedometer"),
        Platform::Android => own() || ANDROID.contains(&command) || command == "system.notify",
        Platform::Other => command == "system.notify",
    }
}

/// Whether a command may be called on a platform by these settings.
#[must_use]
pub fn judge(command: &str, platform: Platform, settings: &NodeCommandSettings) -> Verdict {
    if settings.deny.contains(command) {
        Verdict::Denied
    } else if is_usual(command, platform) || settings.allow.contains(command) {
        Verdict::Usual
    } else {
        Verdict::NotAllowed
    }
}

/// Runs a program on the node. Until there are exec approvals, the settings have to name it.
#[must_use]
pub fn runs_programs(command: &str) -> bool {
    command == "system.run"
}

/// Reaches further into the machine than an operator with `operator.write` may.
fn is_deep(command: &str) -> bool {
    command.starts_with("browser.proxy")
        || command.starts_with("system.execApprovals.")
        || matches!(command, "fs.listDir" | "terminal.upload" | "desktop.stream")
        || runs_programs(command)
}

/// The scope that a call of a command needs.
#[must_use]
pub fn invoke_scope(command: &str) -> Scope {
    if is_deep(command) {
        Scope::Admin
    } else {
        Scope::Write
    }
}

/// The scopes that whoever approves these commands needs: never fewer than to call them.
pub fn approve_scopes<'a>(commands: impl IntoIterator<Item = &'a str>) -> Vec<Scope> {
    let mut more = None;
    for command in commands {
        if is_deep(command) || command.starts_with("system.run") || command == "system.which" {
            return vec![Scope::Pairing, Scope::Admin];
        }
        more = Some(Scope::Write);
    }
    std::iter::once(Scope::Pairing).chain(more).collect()
}
