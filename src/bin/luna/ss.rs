//! `luna ss`: the sockets.

use std::process::ExitCode;

use clap::Args;
use luna::stats::discover::Process;
use luna::stats::{Reason, RowState, SocketRow};
use serde_json::{Value, json};

use crate::show;

#[derive(Args)]
pub(crate) struct Options {
    /// Also listeners, and sockets that are not connected
    #[arg(short, long)]
    all: bool,
    /// One JSON array of processes with all their sockets
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let Some(found) = show::processes() else {
        return ExitCode::FAILURE;
    };
    if options.json {
        show::print_json(&found.processes.iter().map(process_json).collect());
        return ExitCode::SUCCESS;
    }
    let header = [
        "PROCESS", "FD", "STATE", "LOCAL", "REMOTE", "PATH", "RECV-Q", "SEND-Q", "IN", "OUT",
        "RETRANS", "RTT", "CWND",
    ];
    let mut table = show::table(&header, &[1, 6, 7, 8, 9, 10, 11, 12]);
    for process in &found.processes {
        let info = process.board.info();
        for row in sorted(process) {
            if options.all || is_connected(row.state) {
                let mut cells = vec![format!("{}/{}", info.program, process.pid)];
                cells.extend(cells_of(&row));
                table.add_row(cells);
            }
        }
        if info.rows_refused > 0 {
            show::note(&format!(
                "process {}: {} sockets more than there are rows",
                process.pid, info.rows_refused
            ));
        }
    }
    show::print_table(&table);
    ExitCode::SUCCESS
}

fn sorted(process: &Process) -> Vec<SocketRow> {
    let mut rows = process.board.rows();
    rows.sort_by_key(|row| (row.state != RowState::Listen, row.local, row.remote));
    rows
}

const fn is_connected(state: RowState) -> bool {
    !matches!(
        state,
        RowState::Listen | RowState::Unconnected | RowState::Closed
    )
}

/// The word of the column PATH: where the socket is, and if on the kernel, why.
fn path(reason: Reason) -> String {
    match reason {
        Reason::Accelerated => "luna".into(),
        other => format!("kernel: {}", other.name()),
    }
}

fn cells_of(row: &SocketRow) -> Vec<String> {
    let is_measured = row.reason == Reason::Accelerated && row.srtt_us > 0;
    let rtt = if is_measured {
        format!("{}/{}us", row.srtt_us, row.rttvar_us)
    } else {
        "-".into()
    };
    let remote = if row.remote.port() == 0 {
        "*".into()
    } else {
        row.remote.to_string()
    };
    let fd = if row.fd < 0 {
        "-".into()
    } else {
        row.fd.to_string()
    };
    vec![
        fd,
        row.state.name().into(),
        row.local.to_string(),
        remote,
        path(row.reason),
        row.recv_queue.to_string(),
        row.send_queue.to_string(),
        show::bytes(row.bytes_in),
        show::bytes(row.bytes_out),
        row.retransmits.to_string(),
        rtt,
        if row.cwnd_bytes == 0 {
            "-".into()
        } else {
            show::bytes(u64::from(row.cwnd_bytes))
        },
    ]
}

fn process_json(process: &Process) -> Value {
    let info = process.board.info();
    json!({
        "pid": process.pid,
        "program": info.program,
        "device": info.device,
        "state": info.state.name(),
        "sockets": sorted(process).iter().map(socket_json).collect::<Value>(),
        "sockets_not_shown": info.rows_refused,
    })
}

fn socket_json(row: &SocketRow) -> Value {
    let ssthresh = (row.ssthresh_bytes != u32::MAX).then_some(row.ssthresh_bytes);
    json!({
        "fd": (row.fd >= 0).then_some(row.fd),
        "state": row.state.name(),
        "local": row.local.to_string(),
        "remote": (row.remote.port() != 0).then(|| row.remote.to_string()),
        "accelerated": row.reason == Reason::Accelerated,
        "reason": row.reason.name(),
        "shard": row.shard,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "retransmits": row.retransmits,
        "srtt_us": row.srtt_us,
        "rttvar_us": row.rttvar_us,
        "cwnd_bytes": row.cwnd_bytes,
        "ssthresh_bytes": ssthresh,
        "mss_bytes": row.mss_bytes,
        "recv_queue": row.recv_queue,
        "send_queue": row.send_queue,
    })
}
