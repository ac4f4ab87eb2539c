//! Long answers: rendered once, shared by every client that asks for the same generation, written piece by piece.

use std::io;

use serde::Serialize;

/// Bytes of one piece. A client's task writes a piece and then gives way to others.
const PIECE: usize = 64 * 1024;

/// One line of JSON in pieces.
#[derive(Debug)]
pub struct Dump {
    pieces: Vec<Box<[u8]>>,
}

impl Dump {
    /// The pieces in order; together they are one line with its end.
    pub fn pieces(&self) -> &[Box<[u8]>] {
        &self.pieces
    }

    /// Bytes of the whole line.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Whether nothing is in it; never so for a finished dump.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Writes `{"schema": …, …, KEY: [row, row, …]}` without ever holding a tree of the rows.
#[derive(Debug)]
pub struct DumpWriter {
    pieces: Vec<Box<[u8]>>,
    open: Vec<u8>,
    rows: usize,
}

impl DumpWriter {
    /// Begins an answer with the members of `head` and the list `key`.
    pub fn new(head: &serde_json::Map<String, serde_json::Value>, key: &str) -> Self {
        let mut open = Vec::with_capacity(PIECE + 1024);
        open.push(b'{');
        for (name, value) in head {
            open.extend_from_slice(serde_json::json!(name).to_string().as_bytes());
            open.push(b':');
            open.extend_from_slice(value.to_string().as_bytes());
            open.push(b',');
        }
        open.extend_from_slice(serde_json::json!(key).to_string().as_bytes());
        open.extend_from_slice(b":[");
        Self {
            pieces: Vec::new(),
            open,
            rows: 0,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, row: &impl Serialize) -> io::Result<()> {
        if self.rows > 0 {
            self.open.push(b',');
        }
        self.rows += 1;
        serde_json::to_writer(&mut self.open, row)?;
        if self.open.len() >= PIECE {
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(PIECE + 1024));
            self.pieces.push(full.into_boxed_slice());
        }
        Ok(())
    }

    /// Ends the list, the object and the line.
    pub fn finish(mut self) -> Dump {
        self.open.extend_from_slice(b"]}\n");
        self.pieces.push(self.open.into_boxed_slice());
        Dump { pieces: self.pieces }
    }
}
