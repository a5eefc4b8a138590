//! Answers of the Responses API that are kept to be asked for again and continued.

use super::{Read, Write};
use crate::limits::{MAX_PRUNED_RESPONSES, MAX_RESPONSE_REQUEST_BYTES, MAX_RESPONSES_KEPT};
use crate::{ResponseRow, Result, StoreError};
use rusqlite::params;

impl Read<'_> {
    /// A response that is kept, by its id.
    pub fn get_response(&self, id: &str) -> Result<Option<ResponseRow>> {
        self.one(
            "SELECT id, session_key, session_id, agent_id, request_json, created_at FROM responses WHERE id = ?1",
            [id],
            |r| {
                Ok(ResponseRow {
                    id: r.get(0)?,
                    session_key: r.get(1)?,
                    session_id: r.get(2)?,
                    agent_id: r.get(3)?,
                    request_json: r.get(4)?,
                    created_at: r.get(5)?,
                })
            },
        )
    }
}

impl Write<'_> {
    /// Keeps a response; the oldest ones make room.
    pub fn insert_response(&mut self, response: &ResponseRow) -> Result<()> {
        if response.request_json.len() > MAX_RESPONSE_REQUEST_BYTES {
            return Err(StoreError::Limit("MAX_RESPONSE_REQUEST_BYTES"));
        }
        self.exec(
            "INSERT INTO responses (id, session_key, session_id, agent_id, request_json, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                response.id,
                response.session_key,
                response.session_id,
                response.agent_id,
                response.request_json,
                response.created_at
            ],
        )?;
        self.exec(
            "DELETE FROM responses WHERE seq IN
               (SELECT seq FROM responses WHERE seq <= (SELECT MAX(seq) FROM responses) - ?1 ORDER BY seq LIMIT ?2)",
            [MAX_RESPONSES_KEPT, MAX_PRUNED_RESPONSES],
        )?;
        Ok(())
    }

    /// Forgets a response. `false`: there was none.
    pub fn delete_response(&mut self, id: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM responses WHERE id = ?1", [id])? > 0)
    }
}
