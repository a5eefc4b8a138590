//! `tools.catalog`: what the tools of an agent are.

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::tools::{
    ToolGroup, ToolRow, ToolSource, ToolsCatalogParams, ToolsCatalogResult,
};

use super::error;
use crate::cx::Cx;
use crate::registry::Reply;

pub(super) fn catalog(
    cx: &Cx,
    p: ToolsCatalogParams,
) -> Result<Reply<ToolsCatalogResult>, RpcError> {
    let agents = cx.tenant.agents();
    let agent_id = match p.agent_id {
        Some(id) => error::agent_id(&agents, &id)?.into_string(),
        None => agents.default_id().to_owned(),
    };
    let tools: Vec<ToolRow> = agents
        .get(&agent_id)
        .map(|agent| agent.tools.clone())
        .unwrap_or_default()
        .specs()
        .map(|spec| ToolRow {
            id: spec.name.clone(),
            label: spec.name.clone(),
            description: spec.description.clone(),
            source: ToolSource::Core,
            default_profiles: Vec::new(),
        })
        .collect();
    let groups = if tools.is_empty() {
        Vec::new()
    } else {
        vec![ToolGroup {
            id: "builtin".to_owned(),
            label: "Built in".to_owned(),
            source: ToolSource::Core,
            tools,
        }]
    };
    Ok(Reply::Value(ToolsCatalogResult {
        agent_id,
        profiles: Vec::new(),
        groups,
    }))
}
