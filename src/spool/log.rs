//! The log: segments of records, written at the end, read in order, deleted from the front.
//!
//! Constraints: a crash at any byte leaves at most a torn tail of the last segment, which opening cuts off;
//! anything else that is not as it was written is an error, never skipped. A failed append leaves the log
//! as it was.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::record::{self, Found, HEAD, HEADER};
use super::{Fsync, Mark, Options, Recovered, SpoolError, at};

const EXTENSION: &str = "spool";
/// What is read at once.
const BUFFER: usize = 256 * 1024;

/// One file.
#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: u64,
    last: Option<Mark>,
}

/// A log that is open for writing and reading.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    options: Options,
    segments: VecDeque<Segment>,
    /// The last segment.
    file: File,
    bytes: u64,
    /// Where reading has come to: a segment's number, and its file.
    reader: Option<(u64, BufReader<File>)>,
    /// Written since it was last synced.
    dirty: bool,
    synced: Instant,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log in a directory, which is made where it is missing. A torn tail is cut off.
    ///
    /// # Errors
    /// Where a record is damaged anywhere else, a newer release wrote it, or the disk refuses.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, Recovered), SpoolError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let mut recovered = Recovered::default();
        let mut segments = VecDeque::new();
        let files = segment_files(directory)?;
        let count = files.len();
        for (at_file, (number, path)) in files.into_iter().enumerate() {
            let scanned = scan(&path)?;
            if let Some(bad) = scanned.bad {
                if at_file + 1 < count {
                    return Err(SpoolError::Corrupt { file: path, offset: scanned.bytes, detail: bad });
                }
                recovered.cut_bytes = scanned.length - scanned.bytes;
                let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
                file.set_len(scanned.bytes).map_err(at(&path))?;
                file.sync_all().map_err(at(&path))?;
            }
            if scanned.records == 0 {
                // Nothing was ever whole in it, or it was about to be used.
                fs::remove_file(&path).map_err(at(&path))?;
                continue;
            }
            recovered.records += scanned.records;
            recovered.last = scanned.last;
            segments.push_back(Segment { number, path, bytes: scanned.bytes, last: scanned.last });
        }
        let number = segments.back().map_or(0, |last: &Segment| last.number) + 1;
        let (segment, file) = create(directory, number)?;
        segments.push_back(segment);
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        recovered.bytes = bytes;
        let log = Self {
            directory: directory.to_owned(),
            options,
            segments,
            file,
            bytes,
            reader: None,
            dirty: false,
            synced: Instant::now(),
            buffer: Vec::new(),
        };
        Ok((log, recovered))
    }

    /// Puts the damaged segment and all later ones aside, so that the log can be opened: they keep their
    /// content under another name. Returns how many there were.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn set_aside(directory: &Path) -> Result<usize, SpoolError> {
        let mut aside = 0;
        for (_, path) in segment_files(directory)? {
            if aside == 0 && scan(&path).is_ok_and(|scanned| scanned.bad.is_none()) {
                continue;
            }
            fs::rename(&path, path.with_extension("corrupt")).map_err(at(&path))?;
            aside += 1;
        }
        sync_directory(directory)?;
        Ok(aside)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it holds a record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.last.is_none())
    }

    /// Appends a record. It is in the file when this returns, and on disk as [`Self::tick`] says.
    ///
    /// # Errors
    /// Where the limit is reached or the disk refuses; the log is then as it was.
    pub fn append(&mut self, mark: &Mark, body: &[u8]) -> Result<(), SpoolError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        record::encode(&mut buffer, mark, body);
        let written = self.write(mark, &buffer);
        self.buffer = buffer;
        written
    }

    fn write(&mut self, mark: &Mark, record: &[u8]) -> Result<(), SpoolError> {
        let length = record.len() as u64;
        if self.bytes + length > self.options.limit_bytes {
            let limit_bytes = self.options.limit_bytes;
            return Err(SpoolError::Full { directory: self.directory.clone(), limit_bytes });
        }
        if self
            .segments
            .back()
            .is_some_and(|last| last.last.is_some() && last.bytes + length > self.options.segment_bytes)
        {
            self.roll()?;
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        if let Err(error) = self.file.write_all(record) {
            // What came of it is cut off: the next record follows the last whole one.
            let end = self.file.set_len(last.bytes).and_then(|()| self.file.seek(SeekFrom::End(0)));
            end.map_err(at(&last.path))?;
            return Err(at(&last.path)(error));
        }
        last.bytes += length;
        last.last = Some(*mark);
        self.bytes += length;
        self.dirty = true;
        Ok(())
    }

    /// Begins another segment.
    fn roll(&mut self) -> Result<(), SpoolError> {
        if self.options.fsync != Fsync::Never {
            self.sync()?;
        }
        let number = self.segments.back().map_or(0, |last| last.number) + 1;
        let (segment, file) = create(&self.directory, number)?;
        self.bytes += segment.bytes;
        self.segments.push_back(segment);
        self.file = file;
        Ok(())
    }

    /// Syncs what was written, where the policy says that it is due. `batch_end` is where a request ends.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn tick(&mut self, batch_end: bool) -> Result<(), SpoolError> {
        let due = match self.options.fsync {
            Fsync::Always => batch_end,
            Fsync::Every(interval) => self.synced.elapsed() >= interval,
            Fsync::Never => false,
        };
        if due && self.dirty { self.sync() } else { Ok(()) }
    }

    /// Syncs what was written.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(at(&self.directory))?;
        self.dirty = false;
        self.synced = Instant::now();
        Ok(())
    }

    /// The next records, at least one where there is one, until they are more than `max_bytes`.
    ///
    /// # Errors
    /// Where a record is damaged or the disk refuses.
    pub fn read(&mut self, max_bytes: usize) -> Result<Vec<(Mark, Vec<u8>)>, SpoolError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some((mark, body)) = self.read_one()?
        {
            bytes += body.len();
            records.push((mark, body));
        }
        Ok(records)
    }

    fn read_one(&mut self) -> Result<Option<(Mark, Vec<u8>)>, SpoolError> {
        loop {
            let at_segment = self.reader.as_ref().map(|(number, _)| *number);
            // Behind what was deleted, reading goes on with what is left.
            let at_segment = at_segment.filter(|at| self.segments.iter().any(|one| one.number == *at));
            let Some(segment) =
                self.segments.iter().find(|segment| at_segment.is_none_or(|at| segment.number >= at))
            else {
                return Ok(None);
            };
            let (number, path) = (segment.number, segment.path.clone());
            let (_, file) = match &mut self.reader {
                Some(reader) if reader.0 == number => reader,
                reader => {
                    let mut file = File::open(&path).map_err(at(&path))?;
                    file.seek(SeekFrom::Start(HEADER as u64)).map_err(at(&path))?;
                    reader.insert((number, BufReader::with_capacity(BUFFER, file)))
                }
            };
            let offset = file.stream_position().map_err(at(&path))?;
            if offset < segment.bytes {
                let mut body = Vec::new();
                return match record::read(file, &mut body).map_err(at(&path))? {
                    Found::Record(mark) => Ok(Some((mark, body))),
                    Found::End => {
                        Err(SpoolError::Corrupt { file: path, offset, detail: "it is shorter than it was" })
                    }
                    Found::Bad(detail) => Err(SpoolError::Corrupt { file: path, offset, detail }),
                };
            }
            match self.segments.iter().find(|segment| segment.number > number) {
                // The reader stays where the next record will come.
                None => return Ok(None),
                Some(next) => {
                    let path = &next.path;
                    let mut file = File::open(path).map_err(at(path))?;
                    file.seek(SeekFrom::Start(HEADER as u64)).map_err(at(path))?;
                    self.reader = Some((next.number, BufReader::with_capacity(BUFFER, file)));
                }
            }
        }
    }

    /// Deletes the segments whose records are all at or before `upto`.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn release(&mut self, upto: &Mark) -> Result<(), SpoolError> {
        let before = self.segments.len();
        if self.segments.back().is_some_and(|last| last.last.is_some_and(|mark| mark <= *upto)) {
            // The one that is written to is done with, too: the next record begins another.
            self.roll()?;
        }
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|first| first.last.is_none_or(|mark| mark <= *upto))
        {
            if let Some(first) = self.segments.pop_front() {
                fs::remove_file(&first.path).map_err(at(&first.path))?;
                self.bytes = self.bytes.saturating_sub(first.bytes);
            }
        }
        if self.segments.len() < before {
            sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Whole records.
    pub(super) records: u64,
    /// Bytes of the header and the whole records.
    pub(super) bytes: u64,
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) first: Option<Mark>,
    pub(super) last: Option<Mark>,
    /// What is wrong after that.
    pub(super) bad: Option<&'static str>,
}

/// Reads a whole segment.
pub(super) fn scan(path: &Path) -> Result<Scanned, SpoolError> {
    let file = File::open(path).map_err(at(path))?;
    let length = file.metadata().map_err(at(path))?.len();
    let mut file = BufReader::with_capacity(BUFFER, file);
    let mut scanned = Scanned { length, ..Scanned::default() };
    let mut header = [0; HEADER];
    let got = record::fill(&mut file, &mut header).map_err(at(path))?;
    if got < HEADER || header[..8] != *record::MAGIC {
        scanned.bad = Some("it has no header");
        return Ok(scanned);
    }
    let version = header[8..].iter().fold(0, |version, byte| version << 8 | u32::from(*byte));
    if version > record::VERSION {
        return Err(SpoolError::Version { file: path.to_owned(), version });
    }
    if header != record::header() {
        scanned.bad = Some("its header is of no format");
        return Ok(scanned);
    }
    scanned.bytes = HEADER as u64;
    let mut body = Vec::new();
    // What is written meanwhile by another process is not looked at.
    let mut file = file.take(length - HEADER as u64);
    loop {
        match record::read(&mut file, &mut body).map_err(at(path))? {
            Found::End => return Ok(scanned),
            Found::Bad(detail) => {
                scanned.bad = Some(detail);
                return Ok(scanned);
            }
            Found::Record(mark) if scanned.last.is_some_and(|last| last >= mark) => {
                scanned.bad = Some("its records do not ascend");
                return Ok(scanned);
            }
            Found::Record(mark) => {
                scanned.records += 1;
                scanned.bytes += (HEAD + body.len()) as u64;
                scanned.first = scanned.first.or(Some(mark));
                scanned.last = Some(mark);
            }
        }
    }
}

/// The segments of a directory, in order.
pub(super) fn segment_files(directory: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == EXTENSION)
        {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn create(directory: &Path, number: u64) -> Result<(Segment, File), SpoolError> {
    let path = directory.join(format!("{number:020}.{EXTENSION}"));
    let mut file = OpenOptions::new().create_new(true).write(true).open(&path).map_err(at(&path))?;
    if let Err(error) = file.write_all(&record::header()) {
        // An empty file would only be in the way.
        fs::remove_file(&path).map_err(at(&path))?;
        return Err(at(&path)(error));
    }
    sync_directory(directory)?;
    Ok((Segment { number, path, bytes: HEADER as u64, last: None }, file))
}

/// Makes the names of files survive a crash.
fn sync_directory(directory: &Path) -> Result<(), SpoolError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at(directory))
}

#[cfg(test)]
mod tests;
