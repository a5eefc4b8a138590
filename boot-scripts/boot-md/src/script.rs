//! The join to world `boot-script`.

use crate::{agents, file_params, send_params, summary, task};

gateway_guest::boot_script!(Script);

use bindings::exports::gateway::boot::script::{Context, Error, Guest, Report};
use bindings::gateway::host::gateway_call;

struct Script;

fn call(method: &str, params: &str, key: &str) -> Result<String, String> {
    gateway_call::call(method, params, key)
        .map_err(|e| format!("{method}: {}: {}", e.code, e.message))
}

/// Whether the agent was given something to do.
fn one(agent: &str, boot_id: &str) -> Result<bool, String> {
    let Some(text) = task(&call("agents.files.get", &file_params(agent), "")?)? else {
        return Ok(false);
    };
    // The host joins the boot id to the key: a start that is repeated after a crash does not ask twice.
    call("chat.send", &send_params(agent, boot_id, &text), agent)?;
    Ok(true)
}

impl Guest for Script {
    fn run(context: Context) -> Result<Report, Error> {
        let listed = call("agents.list", "{}", "").map_err(Error::Network)?;
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for agent in agents(&listed).map_err(Error::Invalid)? {
            match one(&agent, &context.boot_id) {
                Ok(true) => told.push(agent),
                Ok(false) => {}
                // The others are still asked.
                Err(why) => failed.push(format!("{agent}: {why}")),
            }
        }
        if failed.is_empty() {
            return Ok(Report {
                summary: summary(&told),
                extra: Vec::new(),
            });
        }
        Err(Error::Invalid(failed.join("; ")))
    }
}
