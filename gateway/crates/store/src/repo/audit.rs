//! What was done to the tenant, in a chain that shows whether somebody changed, cut or reordered it.

use super::{Read, Write, page, page_limit};
use crate::limits::{MAX_AUDIT_ROWS, MAX_AUDIT_TEXT_BYTES, MAX_PRUNED_AUDIT_ROWS};
use crate::{AuditFault, AuditKey, AuditRow, AuditVerdict, NewAudit, Page, Result, StoreError};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rusqlite::{OptionalExtension as _, Row, params};
use sha2::Sha256;

type Code = [u8; 32];

/// What the oldest row of a chain that was never pruned continues.
const NOTHING: Code = [0; 32];

/// Where the chain begins and ends.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chain {
    base_seq: i64,
    base_code: Code,
    head_seq: i64,
    head_code: Code,
}

impl AuditKey {
    fn code(&self, parts: &[&[u8]]) -> Code {
        // HMAC pads a short key with zeros to its block; done here, so that no error has to be thought of.
        let mut block = [0u8; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        for part in parts {
            // With their lengths, so that nothing can move from one part into the next.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn row(&self, before: &Code, row: &AuditRow) -> Code {
        self.code(&[
            b"row",
            before,
            &row.seq.to_le_bytes(),
            &row.ts.to_le_bytes(),
            row.action.as_bytes(),
            row.outcome.as_bytes(),
            row.actor_json.as_bytes(),
            // None and an empty text are not the same.
            &[u8::from(row.object_json.is_some())],
            row.object_json.as_deref().unwrap_or_default().as_bytes(),
        ])
    }

    fn chain(&self, chain: &Chain) -> Code {
        self.code(&[
            b"chain",
            &chain.base_seq.to_le_bytes(),
            &chain.base_code,
            &chain.head_seq.to_le_bytes(),
            &chain.head_code,
        ])
    }
}

fn row(r: &Row<'_>) -> rusqlite::Result<(AuditRow, Vec<u8>)> {
    let row = AuditRow {
        seq: r.get(0)?,
        ts: r.get(1)?,
        action: r.get(2)?,
        outcome: r.get(3)?,
        actor_json: r.get(4)?,
        object_json: r.get(5)?,
    };
    Ok((row, r.get(6)?))
}

const COLUMNS: &str = "seq, ts, action, outcome, actor_json, object_json, code";

impl Read<'_> {
    /// Rows before one (`None`: the newest), newest first.
    pub fn audit_page(&self, before: Option<i64>, limit: i64) -> Result<Page<AuditRow>> {
        let limit = page_limit(limit);
        let rows = self.all(
            &format!("SELECT {COLUMNS} FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2"),
            params![before.unwrap_or(i64::MAX), limit + 1],
            |r| row(r).map(|(row, _)| row),
        )?;
        Ok(page(rows, limit, None))
    }

    /// The chain and its own code as they are stored; `None` where nothing was ever written.
    fn chain(&self) -> Result<Option<(Chain, Vec<u8>)>> {
        // A code of another length fits nothing, which is what it should do.
        let code = |bytes: Vec<u8>| Code::try_from(bytes).unwrap_or(NOTHING);
        self.one(
            "SELECT base_seq, base_code, head_seq, head_code, code FROM audit_chain WHERE id = 1",
            [],
            |r| {
                let chain = Chain {
                    base_seq: r.get(0)?,
                    base_code: code(r.get(1)?),
                    head_seq: r.get(2)?,
                    head_code: code(r.get(3)?),
                };
                Ok((chain, r.get(4)?))
            },
        )
    }

    /// Goes through the whole chain. A row that was changed, taken out, put in or moved is found, and so is a cut at either
    /// end; the whole file put back as it once was is not.
    pub fn verify_audit(&self, key: &AuditKey) -> Result<AuditVerdict> {
        let broken = |rows, seq, fault| AuditVerdict {
            rows,
            head_seq: None,
            fault: Some((seq, fault)),
        };
        let Some((chain, code)) = self.chain()? else {
            return Ok(broken(0, 0, AuditFault::NoChain));
        };
        if code != key.chain(&chain) {
            return Ok(broken(0, chain.head_seq, AuditFault::ChainChanged));
        }
        let mut stmt = self.stmt(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"))?;
        let mut found = stmt.query([])?;
        let (mut rows, mut seq, mut code) = (0, chain.base_seq, chain.base_code);
        while let Some(next) = found.next()? {
            let (row, stored) = row(next)?;
            seq += 1;
            if row.seq != seq {
                return Ok(broken(rows, seq, AuditFault::Missing));
            }
            code = key.row(&code, &row);
            if stored != code {
                return Ok(broken(rows, seq, AuditFault::Changed));
            }
            rows += 1;
        }
        if (seq, code) != (chain.head_seq, chain.head_code) {
            return Ok(broken(rows, seq + 1, AuditFault::Missing));
        }
        Ok(AuditVerdict {
            rows,
            head_seq: Some(seq),
            fault: None,
        })
    }
}

impl Write<'_> {
    /// Adds a row in this transaction, and takes the oldest out beyond [`MAX_AUDIT_ROWS`]. Answers its number.
    pub fn append_audit(&mut self, key: &AuditKey, new: &NewAudit, now_ms: i64) -> Result<i64> {
        let long = [&new.action, &new.outcome, &new.actor_json]
            .into_iter()
            .chain(&new.object_json)
            .any(|text| text.len() > MAX_AUDIT_TEXT_BYTES);
        if long {
            return Err(StoreError::Limit("MAX_AUDIT_TEXT_BYTES"));
        }
        let (mut chain, code) = self.chain()?.unwrap_or((
            Chain {
                base_seq: 0,
                base_code: NOTHING,
                head_seq: 0,
                head_code: NOTHING,
            },
            Vec::new(),
        ));
        let row = AuditRow {
            seq: chain.head_seq + 1,
            ts: now_ms,
            action: new.action.clone(),
            outcome: new.outcome.clone(),
            actor_json: new.actor_json.clone(),
            object_json: new.object_json.clone(),
        };
        let row_code = key.row(&chain.head_code, &row);
        // What is broken stays broken: a chain that is not ours gets no new seal.
        let sealed = code.is_empty() && chain.head_seq == 0 || code == key.chain(&chain);
        self.exec(
            // A row that somebody put in at the end has no place there.
            "INSERT OR REPLACE INTO audit (seq, ts, action, outcome, actor_json, object_json, code) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![row.seq, row.ts, row.action, row.outcome, row.actor_json, row.object_json, &row_code[..]],
        )?;
        (chain.head_seq, chain.head_code) = (row.seq, row_code);
        if chain.head_seq - chain.base_seq > MAX_AUDIT_ROWS + MAX_PRUNED_AUDIT_ROWS {
            let cut = chain.head_seq - MAX_AUDIT_ROWS;
            let last: Option<Vec<u8>> = self
                .stmt("SELECT code FROM audit WHERE seq = ?1")?
                .query_row([cut], |r| r.get(0))
                .optional()?;
            if let Some(Ok(code)) = last.map(Code::try_from) {
                self.exec("DELETE FROM audit WHERE seq <= ?1", [cut])?;
                (chain.base_seq, chain.base_code) = (cut, code);
            }
        }
        let code = match sealed {
            true => key.chain(&chain),
            false => NOTHING,
        };
        self.exec(
            "INSERT INTO audit_chain (id, base_seq, base_code, head_seq, head_code, code) VALUES (1, ?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET base_seq = excluded.base_seq, base_code = excluded.base_code,
               head_seq = excluded.head_seq, head_code = excluded.head_code, code = excluded.code",
            params![chain.base_seq, &chain.base_code[..], chain.head_seq, &chain.head_code[..], &code[..]],
        )?;
        Ok(row.seq)
    }
}
