//! How the starts of this state directory went: what tells a crash loop from a start, and whose start it is that kills.

use crate::{HostDb, Result, TenantId};
use rusqlite::{OptionalExtension as _, TransactionBehavior, params};

/// Starts that are remembered.
const KEPT_STARTS: i64 = 50;

/// What was being started when a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartStage {
    /// Sandboxed components were being loaded.
    Guests,
    /// This tenant was being started.
    Tenant(TenantId),
}

/// A tenant that is kept off because its start ended the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOff {
    /// The tenant.
    pub tenant: TenantId,
    /// How often its start ended the process, since it last came up.
    pub crashes: u32,
    /// Since when it is off, Unix epoch ms.
    pub since: i64,
    /// When it is tried again, Unix epoch ms.
    pub retry_at: i64,
}

/// What earlier starts left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartHistory {
    /// When those starts began (Unix epoch ms, newest first) that neither came up nor were ended in order, since the last
    /// one that did.
    pub unclean: Vec<i64>,
    /// What the process before was starting when it ended.
    pub stage: Option<StartStage>,
    /// Tenants that are kept off.
    pub kept_off: Vec<KeptOff>,
}

impl HostDb {
    /// Records that this process starts, and gives what earlier starts left. Durable when it returns.
    ///
    /// # Errors
    /// Those of the database.
    pub fn begin_start(&self, now_ms: i64) -> Result<StartHistory> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut history = StartHistory::default();
        {
            let mut rows =
                tx.prepare("SELECT began_at, ended FROM starts ORDER BY epoch DESC LIMIT ?1")?;
            let rows = rows.query_map([KEPT_STARTS], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, Option<String>>(1)?))
            })?;
            for row in rows {
                match row? {
                    (began_at, None) => history.unclean.push(began_at),
                    (_, Some(_)) => break,
                }
            }
        }
        history.stage = tx
            .query_row(
                "SELECT stage, tenant FROM starts ORDER BY epoch DESC LIMIT 1",
                [],
                |r| {
                    Ok(match (r.get::<_, Option<String>>(0)?, r.get(1)?) {
                        (_, Some(tenant)) => Some(StartStage::Tenant(TenantId(tenant))),
                        (Some(_), None) => Some(StartStage::Guests),
                        (None, None) => None,
                    })
                },
            )
            .optional()?
            .flatten();
        {
            let mut rows = tx
                .prepare("SELECT tenant, crashes, since, retry_at FROM kept_off ORDER BY tenant")?;
            history.kept_off = rows
                .query_map([], |r| {
                    Ok(KeptOff {
                        tenant: TenantId(r.get(0)?),
                        crashes: r.get(1)?,
                        since: r.get(2)?,
                        retry_at: r.get(3)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
        }
        tx.execute(
            "INSERT OR REPLACE INTO starts (epoch, began_at) VALUES (?1, ?2)",
            params![self.epoch(), now_ms],
        )?;
        tx.execute(
            "DELETE FROM starts WHERE epoch <= ?1",
            [self.epoch().saturating_sub(KEPT_STARTS)],
        )?;
        tx.commit()?;
        Ok(history)
    }

    /// Records what is being started now; `None`: nothing in particular. Durable when it returns.
    ///
    /// # Errors
    /// Those of the database.
    pub fn mark_start(&self, stage: Option<&StartStage>) -> Result<()> {
        let (stage, tenant) = match stage {
            None => (None, None),
            Some(StartStage::Guests) => (Some("guests"), None),
            Some(StartStage::Tenant(id)) => (Some("tenant"), Some(id.as_str())),
        };
        self.conn.lock().execute(
            "UPDATE starts SET stage = ?2, tenant = ?3 WHERE epoch = ?1",
            params![self.epoch(), stage, tenant],
        )?;
        Ok(())
    }

    /// Records that this process came up and stayed up.
    ///
    /// # Errors
    /// Those of the database.
    pub fn start_settled(&self) -> Result<()> {
        self.end_start("settled")
    }

    /// Records that this process is ended in order.
    ///
    /// # Errors
    /// Those of the database.
    pub fn start_stopped(&self) -> Result<()> {
        self.mark_start(None)?;
        self.end_start("stopped")
    }

    fn end_start(&self, how: &str) -> Result<()> {
        self.conn.lock().execute(
            "UPDATE starts SET ended = ?2 WHERE epoch = ?1",
            params![self.epoch(), how],
        )?;
        Ok(())
    }

    /// Keeps a tenant off.
    ///
    /// # Errors
    /// Those of the database.
    pub fn keep_off(&self, row: &KeptOff) -> Result<()> {
        self.conn.lock().execute(
            "INSERT OR REPLACE INTO kept_off (tenant, crashes, since, retry_at) VALUES (?1, ?2, ?3, ?4)",
            params![row.tenant.as_str(), row.crashes, row.since, row.retry_at],
        )?;
        Ok(())
    }

    /// A tenant came up: it is not kept off any more.
    ///
    /// # Errors
    /// Those of the database.
    pub fn let_in(&self, tenant: &TenantId) -> Result<()> {
        self.conn
            .lock()
            .execute("DELETE FROM kept_off WHERE tenant = ?1", [tenant.as_str()])?;
        Ok(())
    }
}
