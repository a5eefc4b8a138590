//! Tools of agents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::NonEmpty;

crate::methods! {
    /// The tools that an agent may call, and that `POST /tools/invoke` calls for a program.
    ToolsCatalog = "tools.catalog", Operator(Read), Query, (ToolsCatalogParams) -> ToolsCatalogResult;
}

crate::params! {
    /// Parameters of `tools.catalog`.
    ToolsCatalogParams {
        required {}
        optional {
            /// The agent (default: the default agent).
            "agentId" agent_id: NonEmpty,
        }
        ignored {
            "includePlugins": "All tools are built in.",
        }
        refused {}
    }
}

/// Where a tool is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ToolSource {
    /// Built in.
    Core,
    /// A plugin.
    Plugin,
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolRow {
    /// Its name.
    pub id: String,
    /// The name to show.
    pub label: String,
    /// What it does.
    pub description: String,
    /// Where it is from.
    pub source: ToolSource,
    /// Profiles that have it. There are none: agents name their tools.
    pub default_profiles: Vec<String>,
}

/// Tools of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolGroup {
    /// Its id.
    pub id: String,
    /// The name to show.
    pub label: String,
    /// Where its tools are from.
    pub source: ToolSource,
    /// The tools, by name.
    pub tools: Vec<ToolRow>,
}

/// A profile of tools. There are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolProfile {
    /// Its id.
    pub id: String,
    /// The name to show.
    pub label: String,
}

/// Result of `tools.catalog`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolsCatalogResult {
    /// The agent.
    pub agent_id: String,
    /// Profiles; always empty.
    pub profiles: Vec<ToolProfile>,
    /// The tools.
    pub groups: Vec<ToolGroup>,
}
