//! stub
#![allow(unreachable_pub, missing_docs, dead_code)]
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;
pub(crate) type Mark = [u8; 24];
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    Always,
    Every(Duration),
    Never,
}
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub limit_bytes: u64,
    pub segment_bytes: u64,
    pub fsync: Fsync,
}
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("full")]
    Full { x: u8 },
    #[error("c")]
    Corrupt { x: u8 },
    #[error("l")]
    Locked { x: u8 },
    #[error("d")]
    Disk { x: u8 },
}
#[derive(Debug)]
pub struct Recovered {
    pub records: u64,
    pub bytes: u64,
    pub first: Option<Mark>,
    pub last: Option<Mark>,
    pub cut_bytes: u64,
}
#[derive(Debug)]
pub struct Log;
impl Log {
    pub fn open(_d: &Path, _o: Options) -> Result<(Log, Recovered), SpoolError> {
        Err(SpoolError::Disk { x: 0 })
    }
    pub fn set_aside(_d: &Path) -> Result<(), SpoolError> {
        Ok(())
    }
}
#[derive(Debug)]
pub enum Request {
    Write(Vec<(Mark, Vec<u8>)>),
    Read { max_bytes: usize },
    Release(Mark),
    Rewind,
}
#[derive(Debug)]
pub enum Done {
    Written { bytes: u64, unread: u64 },
    WriteFailed { error: SpoolError, written: usize },
    Read(Vec<(Mark, Vec<u8>)>),
    ReadFailed(SpoolError),
    Released { bytes: u64 },
    Rewound,
}
#[derive(Debug)]
pub struct Spool;
impl Spool {
    pub fn start(_r: &str, _l: Log) -> Self {
        Spool
    }
    pub fn is_busy(&self) -> bool {
        false
    }
    pub fn submit(&mut self, _r: Request) {}
    pub fn poll_done(&mut self, _cx: &mut Context<'_>) -> Poll<Done> {
        Poll::Pending
    }
}
#[derive(Debug)]
pub struct StateDirectory;
impl StateDirectory {
    pub fn open(_p: &Path) -> Result<Self, SpoolError> {
        Err(SpoolError::Disk { x: 0 })
    }
    pub fn instance(&self) -> Result<u64, SpoolError> {
        Ok(1)
    }
    pub fn spool(&self, r: &str) -> PathBuf {
        PathBuf::from(r)
    }
}
