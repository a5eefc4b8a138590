//! A paired device that asks for more scopes on the connection that it has, and waits for the operator's answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gateway_protocol::event::DevicePairRequested;
use gateway_protocol::methods::connect::PairingReason;
use gateway_protocol::scope::ScopeSet;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::book::{Book, Change, Claim, Refusal};
use super::{DevicePass, Failed, Operator, change, load, request_view};
use crate::audit::Audit;
use crate::cx::Role;
use crate::hub::Routing;
use crate::limits::{DEVICE_DECISIONS_KEPT, DEVICE_REQUEST_TTL_MS};
use crate::tenant::Tenant;

/// What operators decided last, for the devices that wait for it.
#[derive(Default)]
pub(crate) struct Decisions {
    last: Mutex<VecDeque<Decided>>,
    changes: watch::Sender<u64>,
}

struct Decided {
    request_id: String,
    device_id: String,
    approved: bool,
}

impl Decisions {
    /// Notes the decisions in a change of the book. Whoever waits is told by [`Self::tell`].
    pub(super) fn note(&self, book: &Book, changes: &[Change]) {
        let mut last = self.last.lock();
        for change in changes {
            let Change::Decided(id) = change else {
                continue;
            };
            let Some(device_id) = book.asked_by(id) else {
                continue;
            };
            let approved = changes
                .iter()
                .any(|c| matches!(c, Change::Device(row) if row.id == device_id));
            if last.len() >= DEVICE_DECISIONS_KEPT {
                last.pop_front();
            }
            last.push_back(Decided {
                request_id: id.clone(),
                device_id: device_id.to_owned(),
                approved,
            });
        }
    }

    pub(super) fn tell(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn of(&self, request_id: &str, device_id: &str) -> Option<bool> {
        let last = self.last.lock();
        let found = last
            .iter()
            .rev()
            .find(|d| d.request_id == request_id && d.device_id == device_id);
        found.map(|d| d.approved)
    }
}

/// What became of a request.
pub(crate) enum Outcome {
    /// The device has another token now.
    Approved {
        token: String,
        scopes: ScopeSet,
    },
    Rejected,
    Expired,
}

/// Asks for these scopes. Gives the request; the same one while it waits.
pub(crate) async fn request(
    tenant: &Arc<Tenant>,
    pass: &DevicePass,
    scopes: ScopeSet,
    address: String,
) -> Result<String, Failed> {
    // What asks gives nothing, and whoever decides is written down.
    let by = Operator {
        ceiling: ScopeSet::NONE,
        device: None,
        audit: Audit::default(),
    };
    let (id, device_id) = (tenant.new_id(), pass.id.clone());
    let fresh = id.clone();
    let (book, id) = change(
        tenant,
        &by,
        serde_json::json!({}),
        false,
        move |_, book, now| {
            let device = book.device(&device_id).ok_or(Refusal::NoDevice)?;
            let token = device.token(Role::Operator).ok_or(Refusal::NoToken)?;
            if scopes.is_within(ScopeSet::parse(&token.scopes)) {
                return Err(Refusal::Has);
            }
            let row = &device.row;
            let claim = Claim {
                device_id: row.id.clone(),
                public_key: row.public_key.clone(),
                display_name: row.display_name.clone(),
                platform: row.platform.clone(),
                device_family: row.device_family.clone(),
                client_id: row.client_id.clone(),
                client_mode: row.client_mode.clone(),
                role: Role::Operator,
                scopes,
                address,
            };
            match book
                .requests(now)
                .into_iter()
                .find(|q| claim.is_asked_by(q))
            {
                Some(q) => Ok((Vec::new(), q.id.clone())),
                None => {
                    let reason = PairingReason::ScopeUpgrade;
                    let changes = Book::ask(&claim, reason, id.clone(), now, DEVICE_REQUEST_TTL_MS);
                    Ok((changes, id))
                }
            }
        },
    )
    .await?;
    if id == fresh {
        let open = book.requests(tenant.now_ms());
        if let Some(q) = open.into_iter().find(|q| q.id == id) {
            tenant
                .hub()
                .emit::<DevicePairRequested>(&request_view(q, true), Routing::Everyone);
        }
        tenant.log(
            "INFO",
            &format!(
                "device {} asks for more scopes: gateway devices approve {id}",
                pass.id
            ),
        );
    }
    Ok(id)
}

/// Waits for the decision about a request of this device.
pub(crate) async fn wait(
    tenant: &Arc<Tenant>,
    pass: &DevicePass,
    request_id: &str,
) -> Result<Outcome, Failed> {
    let decisions = &tenant.devices().decisions;
    let mut changes = decisions.changes.subscribe();
    let mut waited = false;
    loop {
        changes.borrow_and_update();
        let book = load(tenant).await?;
        match decisions.of(request_id, &pass.id) {
            Some(false) => return Ok(Outcome::Rejected),
            Some(true) => {
                let device = book.device(&pass.id).ok_or(Refusal::NoDevice)?;
                let token = device.token(Role::Operator).ok_or(Refusal::NoToken)?;
                return Ok(Outcome::Approved {
                    scopes: ScopeSet::parse(&token.scopes),
                    token: tenant.shared().device_tokens.token(
                        tenant.id(),
                        &device.row.id,
                        &token.role,
                        &token.salt,
                    ),
                });
            }
            None => {}
        }
        let now = tenant.now_ms();
        let open = book.requests(now);
        let Some(q) = open
            .into_iter()
            .find(|q| q.id == request_id && q.device_id == *pass.id)
        else {
            return match waited {
                true => Ok(Outcome::Expired),
                false => Err(Refusal::NoRequest.into()),
            };
        };
        let left = u64::try_from(q.expires_at.saturating_sub(now)).unwrap_or_default();
        waited = true;
        tokio::select! {
            told = changes.changed() => if told.is_err() {
                return Ok(Outcome::Expired);
            },
            () = tokio::time::sleep(Duration::from_millis(left.max(1))) => {}
        }
    }
}
