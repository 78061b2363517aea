//! The metrics of the process under the names that every Prometheus dashboard knows, read from /proc
//! when they are rendered.

use metrics::{Counter, Gauge};

use super::{Register, catalogue, float};
use crate::{logs, rt};

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    log_lines_dropped: Counter,
    cpu_seconds: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory_bytes: Gauge,
    virtual_memory_max_bytes: Gauge,
    resident_memory_bytes: Gauge,
    start_time_seconds: Gauge,
    threads: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new(register: &Register<'_>) -> Self {
        let this = Self {
            log_lines_dropped: register.counter(&catalogue::LOG_LINES_DROPPED),
            cpu_seconds: register.fractional_counter(&catalogue::PROCESS_CPU),
            open_fds: register.gauge(&catalogue::PROCESS_OPEN_FDS),
            max_fds: register.gauge(&catalogue::PROCESS_MAX_FDS),
            virtual_memory_bytes: register.gauge(&catalogue::PROCESS_VIRTUAL_MEMORY),
            virtual_memory_max_bytes: register.gauge(&catalogue::PROCESS_VIRTUAL_MEMORY_MAX),
            resident_memory_bytes: register.gauge(&catalogue::PROCESS_RESIDENT_MEMORY),
            start_time_seconds: register.gauge(&catalogue::PROCESS_START_TIME),
            threads: register.gauge(&catalogue::PROCESS_THREADS),
        };
        // Where only processes show in /proc (ProcSubset=pid, as in the unit file), the time of boot
        // does not, and so not the exact start either. This is made when the process starts.
        this.start_time_seconds.set(float(rt::unix_ms() / 1_000));
        this
    }

    /// Values that /proc does not show (a hidden /proc) stay as they were.
    pub(super) fn collect(&self) {
        self.log_lines_dropped.absolute(logs::dropped());
        let now = metrics_process::collector::collect();
        if let Some(seconds) = now.cpu_seconds_total {
            self.cpu_seconds.set(seconds);
        }
        for (gauge, value) in [
            (&self.open_fds, now.open_fds),
            (&self.max_fds, now.max_fds),
            (&self.virtual_memory_bytes, now.virtual_memory_bytes),
            (&self.virtual_memory_max_bytes, now.virtual_memory_max_bytes),
            (&self.resident_memory_bytes, now.resident_memory_bytes),
            (&self.start_time_seconds, now.start_time_seconds),
            (&self.threads, now.threads),
        ] {
            if let Some(value) = value {
                gauge.set(float(value));
            }
        }
    }
}
