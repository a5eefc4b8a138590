//! The handlers, one family a file, and the only list of them.

pub mod agents;
mod apikeys;
mod audit;
mod backup;
mod channels;
mod chat;
pub mod config;
mod device_scopes;
mod devices;
pub mod error;
mod node_host;
mod nodes;
mod sessions;
mod system;
mod tools;

use gateway_protocol::methods as m;

pub(crate) use chat::stop_runs;

use crate::cron::rpc as cron;
use crate::registry::{Registry, RegistryError};

/// Methods that the transport answers itself.
pub const ELSEWHERE: &[&str] = &["connect"];

/// The finished method table.
///
/// # Errors
/// A method without handler, or with two: a fault of this build that the first test finds.
pub fn registry() -> Result<Registry, RegistryError> {
    Registry::new()
        .on_sync::<m::system::Health>(system::health)
        .on_sync::<m::system::Status>(system::status)
        .on_sync::<m::system::SystemPresence>(system::presence)
        .on_sync::<m::system::GatewayIdentityGet>(system::identity)
        .on::<m::system::BootList>(channels::boot_list)
        .on::<m::audit::AuditEntries>(audit::entries)
        .on::<m::audit::AuditVerify>(audit::verify)
        .on::<m::system::BootRun>(channels::boot_run)
        .on_sync::<m::logs::LogsTail>(system::logs_tail)
        .on_sync::<m::rpc::RpcDiscover>(system::discover)
        .on_sync::<m::rpc::RpcSubscribe>(system::subscribe)
        .on_sync::<m::rpc::RpcUnsubscribe>(system::unsubscribe)
        .on::<m::backup::BackupSnapshot>(backup::snapshot)
        .on_sync::<m::config::ConfigGet>(config::get)
        .on::<m::cron::CronList>(cron::list)
        .on::<m::cron::CronStatus>(cron::status)
        .on::<m::cron::CronGet>(cron::get)
        .on::<m::cron::CronAdd>(cron::add)
        .on::<m::cron::CronUpdate>(cron::update)
        .on::<m::cron::CronRemove>(cron::remove)
        .on::<m::cron::CronRun>(cron::run)
        .on::<m::cron::CronRuns>(cron::runs)
        .on::<m::heartbeat::Wake>(cron::wake)
        .on::<m::heartbeat::SystemEvent>(cron::system_event)
        .on::<m::heartbeat::LastHeartbeat>(cron::last_heartbeat)
        .on::<m::heartbeat::SetHeartbeats>(cron::set_heartbeats)
        .on::<m::devices::DevicePairList>(devices::list)
        .on::<m::devices::DevicePairApprove>(devices::approve)
        .on::<m::devices::DevicePairReject>(devices::reject)
        .on::<m::devices::DevicePairRemove>(devices::remove)
        .on::<m::devices::DevicePairRename>(devices::rename)
        .on::<m::device_setup::DevicePairSetupCode>(devices::setup_code)
        .on::<m::device_setup::DevicePairSetupStatus>(devices::setup_status)
        .on::<m::devices::DeviceTokenRotate>(devices::rotate)
        .on::<m::devices::DeviceTokenRevoke>(devices::revoke)
        .on::<m::devices::DeviceScopesRequestUpgrade>(device_scopes::request)
        .on::<m::devices::DeviceScopesWaitUpgrade>(device_scopes::wait)
        .on::<m::nodes::NodeList>(nodes::list)
        .on::<m::nodes::NodeDescribe>(nodes::describe)
        .on::<m::nodes::NodeRename>(nodes::rename)
        .on::<m::nodes::NodePairList>(nodes::pair_list)
        .on::<m::nodes::NodePairApprove>(nodes::approve)
        .on::<m::nodes::NodePairReject>(nodes::reject)
        .on::<m::nodes::NodePairRemove>(nodes::remove)
        .on::<m::nodes::NodeInvoke>(nodes::invoke)
        .on::<m::nodes::NodePendingEnqueue>(nodes::pending_enqueue)
        .on::<m::node_host::NodeInvokeResultGive>(node_host::result)
        .on::<m::node_host::NodeInvokeProgress>(node_host::progress)
        .on::<m::node_host::NodeEvent>(node_host::event)
        .on::<m::node_host::NodePendingPull>(node_host::pending_pull)
        .on::<m::node_host::NodePendingAck>(node_host::pending_ack)
        .on::<m::node_host::NodePendingDrain>(node_host::pending_drain)
        .on::<m::node_host::NodePluginToolsUpdate>(node_host::plugin_tools)
        .on::<m::node_host::NodeSkillsUpdate>(node_host::skills)
        .on::<m::node_host::NodeRunnerInventoryUpdate>(node_host::runner_inventory)
        .on::<m::config::ConfigSet>(config::set)
        .on::<m::config::ConfigPatch>(config::patch)
        .on::<m::config::ConfigApply>(config::apply)
        .on_sync::<m::config::ConfigSchema>(config::schema)
        .on_sync::<m::config::ConfigSchemaLookup>(config::lookup)
        .on::<m::apikeys::ApiKeysCreate>(apikeys::create)
        .on_sync::<m::apikeys::ApiKeysList>(apikeys::list)
        .on::<m::apikeys::ApiKeysRevoke>(apikeys::revoke)
        .on_sync::<m::agents::AgentsList>(agents::list)
        .on_sync::<m::agents::ModelsList>(agents::models)
        .on::<m::agents::Agent>(agents::agent)
        .on::<m::agents::AgentsFilesGet>(agents::file)
        .on::<m::agents::AgentWait>(agents::wait)
        .on::<m::chat::ChatSend>(chat::send)
        .on::<m::chat::ChatHistory>(chat::history)
        .on::<m::chat::ChatAbort>(chat::abort)
        .on::<m::chat::ChatInject>(chat::inject)
        .on::<m::sessions::SessionsList>(sessions::list)
        .on::<m::sessions::SessionsDescribe>(sessions::describe)
        .on::<m::sessions::SessionsCreate>(sessions::create)
        .on::<m::sessions::SessionsReset>(sessions::reset)
        .on::<m::sessions::SessionsDelete>(sessions::delete)
        .on_sync::<m::sessions::SessionsSubscribe>(sessions::subscribe)
        .on_sync::<m::sessions::SessionsUnsubscribe>(sessions::unsubscribe)
        .on_sync::<m::sessions::SessionsMessagesSubscribe>(sessions::messages_subscribe)
        .on_sync::<m::sessions::SessionsMessagesUnsubscribe>(sessions::messages_unsubscribe)
        .on_sync::<m::tools::ToolsCatalog>(tools::catalog)
        .on::<m::channels::ChannelsStatus>(channels::status)
        .on::<m::channels::ChannelsStart>(channels::start)
        .on::<m::channels::ChannelsStop>(channels::stop)
        .on::<m::channels::ChannelsPairingList>(channels::pairing_list)
        .on::<m::channels::ChannelsPairingApprove>(channels::pairing_approve)
        .on::<m::channels::Send>(channels::send)
        .on::<m::channels::OutboxList>(channels::outbox_list)
        .finish(ELSEWHERE)
}
