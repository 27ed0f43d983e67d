//! Who may read what: remembered rights, the requests to upstream that prove a right, and the challenge to callers.
//!
//! Two things are needed to hand out content. A *right*: upstream let a principal that the caller may use read the
//! repository, not long ago ([`rights`], [`grants`], [`known_rights`]). And *membership*: the repository's own upstream
//! delivered these bytes, or confirmed them under a live right ([`membership`]). **That a manifest names a digest
//! proves nothing**: anyone can publish an index that lists other people's digests.
//!
//! ```text
//! authorize             what is known, else what upstream says; challenges
//! asking                asks upstream as one principal after the other
//! denied_reference      whether the denial of one tag or manifest is about the whole repository
//! tried                 what the credentials of one request came to so far
//! other_proofs          what else ends and proves rights: the operator's word, content that was verified
//! recorded_answers      what each answer says of rights, recorded
//! known_rights          what is known without asking: grants, principals and terms, by the rules of rights (pure)
//! granted_rights        what these two share: the grants, whose they are, and the terms
//! grants                when upstream last let a principal read a repository
//! principals            as whom a caller may read, and the credentials to ask with
//! membership            which digests a repository may hand out
//! digest_answers        what registries said of digests, in the order in which it was recorded (pure)
//! confirm               asks whether a repository still has what is here, once for equal questions (confirmations)
//! deleted               when content is not handed out any more: its registry has deleted it, or withholds it
//! negative_cache        denials of a moment ago
//! refused_repositories  where callers without a credential are challenged at once
//! outages               which registries cannot be asked, and since when
//! shared_rights         what other nodes shared for an outage, held for as long as it lasts
//! ```
//!
//! [`authorize::Access`] is what the rest of `pull` uses. It asks registries for tags, manifests and blobs, and knows
//! no bytes of them and no HTTP.

mod asking;
pub(crate) mod authorize;
mod confirm;
mod confirmations;
pub(crate) mod deleted;
mod denied_reference;
pub(crate) mod digest_answers;
mod granted_rights;
pub(crate) mod grants;
pub(crate) mod known_rights;
pub(crate) mod membership;
pub(crate) mod negative_cache;
mod other_proofs;
pub(crate) mod outages;
pub(crate) mod principals;
pub(crate) mod recorded_answers;
pub(crate) mod refused_repositories;
pub(crate) mod rights;
pub(crate) mod shared_rights;
pub(crate) mod tried;

pub(crate) use authorize::{Access, Purpose, UnprovedRight, proved_by};
pub(crate) use confirm::CONFIRM_WAIT;
pub(crate) use deleted::Absence;
pub(crate) use negative_cache::Subject;
pub(crate) use shared_rights::is_older;
