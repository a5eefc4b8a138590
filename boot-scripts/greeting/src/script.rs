//! The join to world `boot-script`.

use crate::{inject_params, plan};

gateway_guest::boot_script!(Script);

use bindings::exports::gateway::boot::script::{Context, Error, Guest, Report};
use bindings::gateway::host::{config, gateway_call};

struct Script;

impl Guest for Script {
    fn run(context: Context) -> Result<Report, Error> {
        let greeting = plan(&config::get()).map_err(Error::Invalid)?;
        // The host joins the boot id to the key: a start that is repeated after a crash does not greet twice.
        gateway_call::call("chat.inject", &inject_params(&greeting), "greeting").map_err(|e| {
            let text = format!("chat.inject: {}: {}", e.code, e.message);
            if e.retryable {
                Error::Network(text)
            } else {
                Error::Invalid(text)
            }
        })?;
        Ok(Report {
            summary: format!("greeted {} (boot {})", greeting.session, context.boot_id),
            extra: Vec::new(),
        })
    }
}
