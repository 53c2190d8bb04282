//! Sharing the program that another process has attached.
//!
//! Its maps are found by its kernel id, and so is its link, of which each process holds a
//! descriptor: the program stays until the last of them has ended.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use aya::maps::{Map, MapData};

use super::{
    AttachMode, Hold, PORTS_MAP, PROGRAM_NAME, Steering, held_link, io_error_of_map,
    io_error_of_program,
};
use crate::device::OpenError;
use crate::device::xdp::interface::{Interface, open_error};

/// Joins the processes that use `program` on `interface`. `None`: it is not ours, or a build's
/// with other maps, or it goes away at this moment.
pub(super) fn join(interface: &Interface, program: u32) -> Result<Option<Steering>, OpenError> {
    let loaded = aya::programs::loaded_programs().find_map(|info| match info {
        Ok(info) if info.id() == program => Some(Ok(info)),
        Ok(_) => None,
        Err(error) => Some(Err(io_error_of_program(error))),
    });
    let failed = |error| open_error(&interface.name, "look at the XDP program", error);
    let Some(info) = loaded.transpose().map_err(failed)? else {
        return Ok(None);
    };
    if info.name_as_str() != Some(PROGRAM_NAME) {
        return Ok(None);
    }
    let Some(link) = link_of(program) else {
        return Ok(None);
    };
    let ids = info
        .map_ids()
        .map_err(|error| failed(io_error_of_program(error)))?;
    let mut maps = HashMap::new();
    for id in ids.into_iter().flatten() {
        let map = MapData::from_id(id).and_then(|data| {
            let name = data.info()?.name_as_str().map(str::to_owned);
            Ok((name, Map::from_map_data(data)?))
        });
        let (name, map) = map.map_err(|error| failed(io_error_of_map(error)))?;
        maps.insert(name.unwrap_or_default(), map);
    }
    if !maps.contains_key(PORTS_MAP) {
        return Ok(None);
    }
    let mode = if interface.xdp_is_generic {
        AttachMode::Generic
    } else {
        AttachMode::Native
    };
    Steering::assemble(interface.clone(), mode, Hold::Held { _link: link }, maps).map(Some)
}

/// A descriptor of the link that attaches `program`.
fn link_of(program: u32) -> Option<std::os::fd::OwnedFd> {
    let mut links = aya::programs::loaded_links().flatten();
    let link = links.find(|link| link.program_id() == program)?;
    held_link(link.id())
}
