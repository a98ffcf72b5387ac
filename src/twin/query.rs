//! x
use super::store::TwinStore;
use atlas_dataplane::state::{Answer, Entries};
use atlas_dataplane::types::Code;
pub(super) fn answer(_: &TwinStore, _: &dyn Entries, _: &[u8], _: &mut Answer) -> Code { Code::BAD_QUERY }
