//! What a tenant knows of devices, as a value: decisions read it, and every operation gives the changes of one transaction,
//! which are applied to the store and then here. Nothing in this file waits or writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use gateway_protocol::device::plain;
use gateway_protocol::methods::connect::PairingReason;
use gateway_protocol::scope::{Scope, ScopeSet};
use gateway_store::{
    CredentialHash, DeviceRequestRow, DeviceRow, DeviceTokenRow, NodeRequestRow, NodeRow,
    SetupCodeRow, StoreError, Write,
};

use super::record::Records;
use super::token::role_of;
use crate::cx::Role;
use crate::limits::DEVICE_TEXT_MAX_CHARS;

/// A paired device.
#[derive(Debug, Clone)]
pub struct Device {
    /// What is kept of it.
    pub row: DeviceRow,
    /// Its tokens by role, ended ones too.
    pub tokens: BTreeMap<String, DeviceTokenRow>,
    seen: Arc<Seen>,
}

/// When it connected last in each role, Unix epoch ms; 0: never.
#[derive(Debug, Default)]
struct Seen {
    operator: AtomicI64,
    node: AtomicI64,
}

impl Seen {
    fn of(&self, role: Role) -> &AtomicI64 {
        match role {
            Role::Operator => &self.operator,
            Role::Node => &self.node,
        }
    }
}

impl Device {
    fn new(row: DeviceRow) -> Self {
        Self {
            seen: Arc::default(),
            tokens: BTreeMap::new(),
            row,
        }
    }

    /// The token that lets it in in this role.
    #[must_use]
    pub fn token(&self, role: Role) -> Option<&DeviceTokenRow> {
        self.tokens
            .get(role.as_str())
            .filter(|t| t.revoked_at.is_none())
    }

    /// The roles that it may connect in.
    pub fn roles(&self) -> impl Iterator<Item = Role> + '_ {
        self.tokens
            .values()
            .filter(|t| t.revoked_at.is_none())
            .filter_map(|t| role_of(&t.role))
    }

    /// The scopes that it may ask for as an operator.
    #[must_use]
    pub fn scopes(&self) -> ScopeSet {
        self.token(Role::Operator)
            .map_or(ScopeSet::NONE, |t| ScopeSet::parse(&t.scopes))
    }

    /// When it connected last, Unix epoch ms.
    #[must_use]
    pub fn last_seen_ms(&self) -> Option<i64> {
        [Role::Operator, Role::Node]
            .into_iter()
            .filter_map(|role| self.last_used_ms(role))
            .chain(self.row.last_seen_at)
            .max()
    }

    /// When it connected last in this role, Unix epoch ms.
    #[must_use]
    pub fn last_used_ms(&self, role: Role) -> Option<i64> {
        Some(self.seen.of(role).load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Notes that it connects now. `true`: the last time is so long ago that it is worth a row.
    pub(crate) fn saw(&self, role: Role, now_ms: i64, step_ms: i64) -> bool {
        let seen = self.seen.of(role);
        if now_ms - seen.load(Ordering::Relaxed) < step_ms {
            return false;
        }
        seen.fetch_max(now_ms, Ordering::Relaxed);
        true
    }
}

/// What a connection says about itself, proven and cut to size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The device.
    pub device_id: String,
    /// Its public key, base64url without padding.
    pub public_key: String,
    /// The name that it gives itself.
    pub display_name: Option<String>,
    /// Its platform.
    pub platform: String,
    /// Its device family.
    pub device_family: Option<String>,
    /// `client.id`
    pub client_id: String,
    /// `client.mode`
    pub client_mode: String,
    /// The role that it asks for.
    pub role: Role,
    /// The scopes that it asks for; none for a node.
    pub scopes: ScopeSet,
    /// What counts as its address.
    pub address: String,
}

impl Claim {
    /// Cuts what the client wrote to what is kept. Comparisons see only that.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| {
            if let Some((at, _)) = text.char_indices().nth(DEVICE_TEXT_MAX_CHARS) {
                text.truncate(at);
            }
        };
        cut(&mut self.platform);
        for text in [&mut self.display_name, &mut self.device_family] {
            text.iter_mut().for_each(cut);
        }
        if self.role == Role::Node {
            self.scopes = ScopeSet::NONE;
        }
        self
    }

    pub(super) fn is_asked_by(&self, q: &DeviceRequestRow) -> bool {
        q.device_id == self.device_id
            && q.role == self.role.as_str()
            && q.scopes == names(self.scopes)
            && q.platform == self.platform
            && q.device_family == self.device_family
    }

    fn same_machine(&self, row: &DeviceRow) -> bool {
        same_machine(
            (&self.platform, self.device_family.as_deref()),
            (&row.platform, row.device_family.as_deref()),
        )
    }
}

/// Platform and device family.
fn same_machine(a: (&str, Option<&str>), b: (&str, Option<&str>)) -> bool {
    let family = |text: Option<&str>| plain(text.unwrap_or_default());
    plain(a.0) == plain(b.0) && family(a.1) == family(b.1)
}

/// What may be approved without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Silent {
    /// A device that nobody knows yet.
    pub first: bool,
    /// More scopes, or the operator's role, for one that is known.
    pub upgrade: bool,
}

/// What becomes of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was approved before; this token is its.
    Known(Box<DeviceTokenRow>),
    /// It is approved without a person.
    Approve,
    /// A person has to approve it; a request is to be made.
    Ask(PairingReason),
    /// A person has to approve it, and this request says so already.
    Waits(Box<DeviceRequestRow>, PairingReason),
}

/// One row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A device, new or changed.
    Device(DeviceRow),
    /// A token, new or changed.
    Token(DeviceTokenRow),
    /// A device that is forgotten.
    Forget(String),
    /// A request; older ones of the device go.
    Request(DeviceRequestRow),
    /// A request that was decided.
    Decided(String),
    /// A new setup code.
    Code(SetupCodeRow),
    /// A setup code that is used.
    CodeUsed(SetupCodeRow),
    /// What was approved of a node.
    Node(NodeRow),
    /// What was approved of a node, what it offers and what waits for it is forgotten.
    ForgetNode(String),
    /// What a node offers; an older request of it goes.
    NodeRequest(NodeRequestRow),
    /// A request of a node that was decided.
    NodeDecided(String),
}

impl Change {
    /// Writes it.
    pub(crate) fn write(&self, w: &mut Write<'_>, now_ms: i64) -> Result<(), StoreError> {
        match self {
            Self::Device(row) => w.put_device(row),
            Self::Token(row) => w.put_device_token(row),
            Self::Forget(id) => w.remove_device(id).map(drop),
            Self::Request(row) => w.put_device_request(row, now_ms),
            Self::Decided(id) => w.remove_device_request(id).map(drop),
            Self::Code(row) => w.add_setup_code(row, now_ms),
            Self::CodeUsed(row) => w.use_setup_code(row),
            Self::Node(row) => w.put_node(row),
            Self::ForgetNode(id) => w.remove_node(id),
            Self::NodeRequest(row) => w.put_node_request(row),
            Self::NodeDecided(id) => w.remove_node_request(id).map(drop),
        }
    }
}

/// A token to be: what it follows from, and its hash.
#[derive(Debug, Clone, Copy)]
pub struct Minted {
    /// The salt.
    pub salt: [u8; 16],
    /// The keyed hash of the token.
    pub hash: CredentialHash,
}

/// Why an operation on devices did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such request: it was decided, ran out, or never was.
    NoRequest,
    /// No such device.
    NoDevice,
    /// The device has no token in this role.
    NoToken,
    /// Nobody gives what they do not have: this scope.
    Beyond(Scope),
    /// More than the token has: a replacement can only have less.
    Wider,
    /// The device has it already.
    Has,
}

/// The names of scopes as they are kept.
#[must_use]
pub fn names(scopes: ScopeSet) -> Vec<String> {
    scopes.iter().map(|s| s.as_str().to_owned()).collect()
}

/// Everything about the devices of one tenant.
#[derive(Debug, Clone, Default)]
pub struct Book {
    devices: BTreeMap<String, Arc<Device>>,
    requests: BTreeMap<String, DeviceRequestRow>,
    codes: BTreeMap<String, SetupCodeRow>,
    /// What was approved of nodes and what they ask for.
    pub(super) records: Records,
}

impl Book {
    /// What the store has.
    #[must_use]
    pub fn of(
        devices: Vec<DeviceRow>,
        tokens: Vec<DeviceTokenRow>,
        requests: Vec<DeviceRequestRow>,
        codes: Vec<SetupCodeRow>,
        nodes: Vec<NodeRow>,
        node_requests: Vec<NodeRequestRow>,
    ) -> Self {
        let mut book = Self::default();
        let changes = (devices.into_iter().map(Change::Device))
            .chain(tokens.into_iter().map(Change::Token))
            .chain(requests.into_iter().map(Change::Request))
            .chain(codes.into_iter().map(Change::Code))
            .chain(nodes.into_iter().map(Change::Node))
            .chain(node_requests.into_iter().map(Change::NodeRequest));
        for change in changes {
            book.apply(&change, i64::MIN);
        }
        book
    }

    /// Does to this what [`Change::write`] does to the store.
    pub fn apply(&mut self, change: &Change, now_ms: i64) {
        match change {
            Change::Device(row) => match self.devices.get_mut(&row.id) {
                Some(device) => Arc::make_mut(device).row = row.clone(),
                None => {
                    let device = Device::new(row.clone());
                    self.devices.insert(row.id.clone(), Arc::new(device));
                }
            },
            Change::Token(row) => {
                if let Some(device) = self.devices.get_mut(&row.device_id) {
                    if let (Some(role), Some(at)) = (role_of(&row.role), row.last_used_at) {
                        device.seen.of(role).fetch_max(at, Ordering::Relaxed);
                    }
                    Arc::make_mut(device)
                        .tokens
                        .insert(row.role.clone(), row.clone());
                }
            }
            Change::Forget(id) => {
                self.devices.remove(id);
                self.requests.retain(|_, q| q.device_id != *id);
                self.records.forget(id);
            }
            Change::Request(row) => {
                self.requests
                    .retain(|_, q| q.expires_at > now_ms && q.device_id != row.device_id);
                self.requests.insert(row.id.clone(), row.clone());
            }
            Change::Decided(id) => {
                self.requests.remove(id);
            }
            Change::Code(row) => {
                let kept = now_ms.saturating_sub(gateway_store::limits::SETUP_CODE_KEPT_MS);
                self.codes.retain(|_, c| c.expires_at > kept);
                self.codes.insert(row.id.clone(), row.clone());
            }
            Change::CodeUsed(row) => {
                self.codes.insert(row.id.clone(), row.clone());
            }
            Change::Node(row) => self.records.put(row),
            Change::ForgetNode(id) => self.records.forget(id),
            Change::NodeRequest(row) => self.records.ask(row),
            Change::NodeDecided(id) => self.records.decided(id),
        }
    }

    /// The devices, by id.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.devices.values()
    }

    /// The device of this id.
    #[must_use]
    pub fn device(&self, id: &str) -> Option<&Arc<Device>> {
        self.devices.get(id)
    }

    /// Requests that have not run out, the oldest first.
    #[must_use]
    pub fn requests(&self, now_ms: i64) -> Vec<&DeviceRequestRow> {
        let mut open: Vec<_> = self
            .requests
            .values()
            .filter(|q| q.expires_at > now_ms)
            .collect();
        open.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        open
    }

    /// The device whose request this is.
    #[must_use]
    pub fn asked_by(&self, request_id: &str) -> Option<&str> {
        let q = self.requests.get(request_id)?;
        Some(&q.device_id)
    }

    fn request(&self, id: &str, now_ms: i64) -> Result<&DeviceRequestRow, Refusal> {
        self.requests
            .get(id)
            .filter(|q| q.expires_at > now_ms)
            .ok_or(Refusal::NoRequest)
    }

    /// The setup codes, used ones too.
    pub fn codes(&self) -> impl Iterator<Item = &SetupCodeRow> {
        self.codes.values()
    }

    /// The setup code of this id.
    #[must_use]
    pub fn code(&self, id: &str) -> Option<&SetupCodeRow> {
        self.codes.get(id)
    }

    /// All tokens, ended ones too.
    pub fn tokens(&self) -> impl Iterator<Item = &DeviceTokenRow> {
        self.devices.values().flat_map(|d| d.tokens.values())
    }

    /// What becomes of a claim.
    #[must_use]
    pub fn decide(&self, claim: &Claim, silent: Silent, now_ms: i64) -> Decision {
        let device = self.devices.get(&claim.device_id);
        let token = device.and_then(|d| d.token(claim.role));
        let (reason, quietly) = match (device, token) {
            (None, _) => (PairingReason::NotPaired, silent.first),
            (Some(device), None) => {
                // What an operator ended comes back by an operator only, and a device does not turn into a node by itself.
                let ended = device.tokens.contains_key(claim.role.as_str());
                let reason = match device.roles().next() {
                    Some(_) => PairingReason::RoleUpgrade,
                    None => PairingReason::NotPaired,
                };
                let quietly = !ended
                    && reason == PairingReason::RoleUpgrade
                    && claim.role == Role::Operator
                    && claim.same_machine(&device.row)
                    && silent.upgrade;
                (reason, quietly)
            }
            (Some(device), Some(_)) if !claim.same_machine(&device.row) => {
                (PairingReason::MetadataUpgrade, false)
            }
            (Some(_), Some(token)) => {
                if claim.scopes.is_within(ScopeSet::parse(&token.scopes)) {
                    return Decision::Known(Box::new(token.clone()));
                }
                (PairingReason::ScopeUpgrade, silent.upgrade)
            }
        };
        if quietly {
            return Decision::Approve;
        }
        let waits = self
            .requests(now_ms)
            .into_iter()
            .find(|q| claim.is_asked_by(q));
        match waits {
            Some(q) => Decision::Waits(Box::new(q.clone()), reason),
            None => Decision::Ask(reason),
        }
    }

    /// The request of a claim.
    #[must_use]
    pub fn ask(
        claim: &Claim,
        reason: PairingReason,
        id: String,
        now_ms: i64,
        ttl_ms: i64,
    ) -> Vec<Change> {
        vec![Change::Request(DeviceRequestRow {
            id,
            device_id: claim.device_id.clone(),
            public_key: claim.public_key.clone(),
            display_name: claim.display_name.clone(),
            platform: claim.platform.clone(),
            device_family: claim.device_family.clone(),
            client_id: claim.client_id.clone(),
            client_mode: claim.client_mode.clone(),
            role: claim.role.as_str().to_owned(),
            scopes: names(claim.scopes),
            reason: reason.as_str().to_owned(),
            address: claim.address.clone(),
            created_at: now_ms,
            expires_at: now_ms.saturating_add(ttl_ms),
        })]
    }

    /// Approves a claim without a person.
    #[must_use]
    pub fn approve_silently(
        &self,
        claim: &Claim,
        via: &str,
        minted: Minted,
        now_ms: i64,
    ) -> Vec<Change> {
        let asked = Asked {
            device_id: &claim.device_id,
            public_key: &claim.public_key,
            display_name: &claim.display_name,
            platform: &claim.platform,
            device_family: &claim.device_family,
            client_id: &claim.client_id,
            client_mode: &claim.client_mode,
            role: claim.role,
            scopes: claim.scopes,
        };
        let mut changes = self.let_in(&asked, via, minted, now_ms);
        changes.extend(
            self.requests
                .values()
                .filter(|q| q.device_id == claim.device_id)
                .map(|q| Change::Decided(q.id.clone())),
        );
        changes
    }

    /// Approves a request. The token that comes of it, with what the device had before, is within `ceiling`.
    ///
    /// # Errors
    /// [`Refusal::NoRequest`], [`Refusal::Beyond`].
    pub fn approve(
        &self,
        request_id: &str,
        ceiling: ScopeSet,
        minted: Minted,
        now_ms: i64,
    ) -> Result<Vec<Change>, Refusal> {
        let q = self.request(request_id, now_ms)?;
        let role = role_of(&q.role).ok_or(Refusal::NoRequest)?;
        let asked = Asked {
            device_id: &q.device_id,
            public_key: &q.public_key,
            display_name: &q.display_name,
            platform: &q.platform,
            device_family: &q.device_family,
            client_id: &q.client_id,
            client_mode: &q.client_mode,
            role,
            scopes: ScopeSet::parse(&q.scopes),
        };
        within(self.united(&asked), ceiling)?;
        let mut changes = self.let_in(&asked, "operator", minted, now_ms);
        changes.push(Change::Decided(q.id.clone()));
        Ok(changes)
    }

    /// Turns a request down. Gives the device that asked.
    ///
    /// # Errors
    /// [`Refusal::NoRequest`].
    pub fn reject(&self, request_id: &str, now_ms: i64) -> Result<(Vec<Change>, String), Refusal> {
        let q = self.request(request_id, now_ms)?;
        Ok((vec![Change::Decided(q.id.clone())], q.device_id.clone()))
    }

    /// Forgets a device.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`].
    pub fn remove(&self, device_id: &str) -> Result<Vec<Change>, Refusal> {
        let device = self.devices.get(device_id).ok_or(Refusal::NoDevice)?;
        Ok(vec![Change::Forget(device.row.id.clone())])
    }

    /// Names a device.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`].
    pub fn rename(&self, device_id: &str, label: &str) -> Result<Vec<Change>, Refusal> {
        let device = self.devices.get(device_id).ok_or(Refusal::NoDevice)?;
        Ok(vec![Change::Device(DeviceRow {
            label: Some(label.to_owned()),
            last_seen_at: device.last_seen_ms(),
            ..device.row.clone()
        })])
    }

    /// Newer than what its row says: uses are noted on the side.
    fn last_used(&self, device_id: &str, role: Role) -> Option<i64> {
        self.devices.get(device_id)?.last_used_ms(role)
    }

    fn live(&self, device_id: &str, role: Role) -> Result<&DeviceTokenRow, Refusal> {
        let device = self.devices.get(device_id).ok_or(Refusal::NoDevice)?;
        device.token(role).ok_or(Refusal::NoToken)
    }

    /// Replaces a token by one with the same scopes or fewer, all of them within `ceiling`.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn rotate(
        &self,
        device_id: &str,
        role: Role,
        scopes: Option<ScopeSet>,
        ceiling: ScopeSet,
        minted: Minted,
        now_ms: i64,
    ) -> Result<Vec<Change>, Refusal> {
        let token = self.live(device_id, role)?;
        let has = ScopeSet::parse(&token.scopes);
        let wanted = scopes.unwrap_or(has);
        if !wanted.is_within(has) {
            return Err(Refusal::Wider);
        }
        within(wanted, ceiling)?;
        Ok(vec![Change::Token(DeviceTokenRow {
            scopes: names(wanted),
            salt: minted.salt,
            hash: minted.hash,
            issued_at: now_ms,
            rotated_at: Some(now_ms),
            last_used_at: self.last_used(device_id, role),
            ..token.clone()
        })])
    }

    /// Ends a token.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn revoke(&self, device_id: &str, role: Role, now_ms: i64) -> Result<Vec<Change>, Refusal> {
        let token = self.live(device_id, role)?;
        let mut changes = vec![Change::Token(DeviceTokenRow {
            revoked_at: Some(now_ms),
            last_used_at: self.last_used(device_id, role),
            ..token.clone()
        })];
        if role == Role::Node {
            // Its commands do not come back with another approval of the device.
            changes.push(Change::ForgetNode(device_id.to_owned()));
        }
        Ok(changes)
    }

    /// What the token will have: what was asked for, and what the device has.
    fn united(&self, asked: &Asked<'_>) -> ScopeSet {
        let has = self
            .devices
            .get(asked.device_id)
            .and_then(|d| d.token(asked.role))
            .map_or(ScopeSet::NONE, |t| ScopeSet::parse(&t.scopes));
        has.iter().chain(asked.scopes.iter()).collect()
    }

    fn let_in(&self, asked: &Asked<'_>, via: &str, minted: Minted, now_ms: i64) -> Vec<Change> {
        let known = self.devices.get(asked.device_id);
        let scopes = names(self.united(asked));
        let row = DeviceRow {
            id: asked.device_id.to_owned(),
            public_key: asked.public_key.to_owned(),
            display_name: asked.display_name.clone(),
            label: known.and_then(|d| d.row.label.clone()),
            platform: asked.platform.to_owned(),
            device_family: asked.device_family.clone(),
            client_id: asked.client_id.to_owned(),
            client_mode: asked.client_mode.to_owned(),
            approved_via: via.to_owned(),
            created_at: known.map_or(now_ms, |d| d.row.created_at),
            approved_at: now_ms,
            last_seen_at: known.and_then(|d| d.last_seen_ms()),
        };
        let before = known.and_then(|d| d.tokens.get(asked.role.as_str()));
        let moved = known.is_some_and(|d| {
            !same_machine(
                (&row.platform, row.device_family.as_deref()),
                (&d.row.platform, d.row.device_family.as_deref()),
            )
        });
        let mut changes = vec![Change::Device(row)];
        if moved {
            // Commands were approved of another kind of machine.
            changes.push(Change::ForgetNode(asked.device_id.to_owned()));
        }
        // A token whose rights change is another token: who got hold of the old one has nothing of it.
        if before.is_none_or(|t| t.revoked_at.is_some() || t.scopes != scopes) {
            changes.push(Change::Token(DeviceTokenRow {
                device_id: asked.device_id.to_owned(),
                role: asked.role.as_str().to_owned(),
                scopes,
                salt: minted.salt,
                hash: minted.hash,
                created_at: before.map_or(now_ms, |t| t.created_at),
                issued_at: now_ms,
                rotated_at: before.and_then(|t| t.rotated_at),
                revoked_at: None,
                last_used_at: self.last_used(asked.device_id, asked.role),
            }));
        }
        changes
    }
}

struct Asked<'a> {
    device_id: &'a str,
    public_key: &'a str,
    display_name: &'a Option<String>,
    platform: &'a str,
    device_family: &'a Option<String>,
    client_id: &'a str,
    client_mode: &'a str,
    role: Role,
    scopes: ScopeSet,
}

fn within(scopes: ScopeSet, ceiling: ScopeSet) -> Result<(), Refusal> {
    match scopes.iter().find(|s| !ceiling.allows(*s)) {
        None => Ok(()),
        Some(beyond) => Err(Refusal::Beyond(beyond)),
    }
}
