//! The one way in which this library replaces a function of the C library.
//!
//! Owns the [`hooks!`] macro, the cells that hold the real functions, and the thread's "inside
//! luna" mark. It knows neither which functions are hooked nor what luna does with them.
//!
//! `redhook::hook!` is not used; docs/DEPENDENCIES.md says why (in short: a thread that is
//! cancelled in a blocking call aborts the process, and a call made while its `Once` resolves a
//! symbol deadlocks).

use core::cell::Cell;
use core::ffi::CStr;
use core::num::NonZeroUsize;

use libc::{c_int, c_long};
use once_cell::race::OnceNonZeroUsize;

/// The address of a function in the next library of the search order.
pub(crate) struct Real {
    name: &'static CStr,
    address: OnceNonZeroUsize,
}

/// Stands for "there is no such function": no function begins at this address.
const MISSING: NonZeroUsize = NonZeroUsize::MIN;

impl Real {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: OnceNonZeroUsize::new(),
        }
    }

    /// The address, or `None` if this C library is too old to have the function.
    #[inline(always)]
    pub(crate) fn address(&self) -> Option<NonZeroUsize> {
        let address = match self.address.get() {
            Some(address) => address,
            None => self.resolve(),
        };
        (address != MISSING).then_some(address)
    }

    /// The address as a function pointer.
    ///
    /// # Safety
    /// `F` is the type of a pointer to the function that has this name.
    #[inline(always)]
    pub(crate) unsafe fn function<F: Copy>(&self) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<usize>()) };
        // SAFETY: the sizes are equal, and the caller knows the type.
        self.address()
            .map(|address| unsafe { core::mem::transmute_copy(&address) })
    }

    /// Two threads may both get here, and a memory allocator that is itself preloaded may call us
    /// again from inside `dlsym`: the cell takes the first answer and nobody waits.
    #[cold]
    fn resolve(&self) -> NonZeroUsize {
        self.address.get_or_init(|| {
            // SAFETY: the name is a C string. RTLD_NEXT keeps the chain of preloaded libraries.
            let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            NonZeroUsize::new(found as usize).unwrap_or(MISSING)
        })
    }
}

thread_local! {
    // A constant without a destructor: no allocation and no registration at first use, so that a
    // signal handler may be that first use.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a call to luna: libluna itself, a library that it calls, or a
/// signal handler that interrupted it.
#[inline]
pub(crate) fn is_inside() -> bool {
    INSIDE.try_with(Cell::get).unwrap_or(true)
}

/// Runs a call to luna with the mark set. A panic, which would be a bug of ours, must neither
/// cross into C nor run half of the call twice: the caller gets `EIO`.
pub(crate) fn inside<R: Failure>(call: impl FnOnce() -> R) -> R {
    let before = INSIDE
        .try_with(|inside| inside.replace(true))
        .unwrap_or(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    let _ = INSIDE.try_with(|inside| inside.set(before));
    result.unwrap_or_else(|_| fail(libc::EIO))
}

/// As [`inside`] for a call that may block: a cancellation point, as POSIX wants. luna's own
/// waits are interrupted by the cancellation signal and end with `EINTR`.
pub(crate) fn inside_blocking<R: Failure>(call: impl FnOnce() -> R) -> R {
    unsafe extern "C-unwind" {
        fn pthread_testcancel();
    }
    // SAFETY: takes nothing; if it unwinds, no frame between here and the caller owns anything.
    unsafe { pthread_testcancel() };
    let result = inside(call);
    if result.is_failure() && errno() == libc::EINTR {
        // SAFETY: as above.
        unsafe { pthread_testcancel() };
        set_errno(libc::EINTR);
    }
    result
}

/// The result types of the hooked functions, which fail with −1 (or null) and `errno`.
pub(crate) trait Failure: Copy {
    const FAILURE: Self;
    fn is_failure(self) -> bool;
}

impl Failure for c_int {
    const FAILURE: Self = -1;
    fn is_failure(self) -> bool {
        self == -1
    }
}

// `ssize_t` is the same type on the ABIs that Linux has with 64 bits.
impl Failure for isize {
    const FAILURE: Self = -1;
    fn is_failure(self) -> bool {
        self == -1
    }
}

impl Failure for c_long {
    const FAILURE: Self = -1;
    fn is_failure(self) -> bool {
        self == -1
    }
}

impl<T> Failure for *mut T {
    const FAILURE: Self = core::ptr::null_mut();
    fn is_failure(self) -> bool {
        self.is_null()
    }
}

impl Failure for () {
    const FAILURE: Self = ();
    fn is_failure(self) -> bool {
        false
    }
}

/// Sets `errno` and gives the failure value.
pub(crate) fn fail<R: Failure>(errno: c_int) -> R {
    set_errno(errno);
    R::FAILURE
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the C library gives a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}

/// Defines the hooks of one file.
///
/// ```text
/// hooks! {
///     fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = |luna| { … }
/// }
/// ```
///
/// The body gives `Some(result)`, or `None` to hand the call to the real function. It runs only
/// while luna is active. Per name the macro makes the exported symbol, `real::name` (the next
/// library's function) and `ours::name` (the body); per file `CELLS`, to resolve them early.
///
/// Exported functions and real functions are `"C-unwind"`: glibc cancels a thread by unwinding
/// through our frame from inside the real function.
macro_rules! hooks {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = |$luna:ident| $body:block
    )*) => {
        #[allow(non_upper_case_globals, reason = "named after the functions they hold")]
        mod cell {
            $(
                $(#[$meta])*
                pub(super) static $name: $crate::hook::Real = $crate::hook::Real::new(
                    match core::ffi::CStr::from_bytes_with_nul(
                        concat!(stringify!($name), "\0").as_bytes(),
                    ) {
                        Ok(name) => name,
                        Err(_) => c"",
                    },
                );
            )*
        }

        /// Every real function of this file.
        pub(crate) static CELLS: &[&$crate::hook::Real] = &[$($(#[$meta])* &cell::$name),*];

        #[allow(dead_code, reason = "not every real function is called by name")]
        #[allow(clippy::too_many_arguments, reason = "the C library's signatures")]
        pub(crate) mod real {
            use super::*;
            $(
                $(#[$meta])*
                #[inline(always)]
                pub(crate) unsafe fn $name($($arg: $ty),*) -> $ret {
                    type Function = unsafe extern "C-unwind" fn($($ty),*) -> $ret;
                    // SAFETY: the dynamic linker's answer for this name has this signature.
                    // Reading the variadic ones as fixed is the same call on the LP64 ABIs.
                    let function = unsafe { cell::$name.function::<Function>() };
                    match function {
                        // SAFETY: the caller's arguments, unchanged.
                        Some(function) => unsafe { function($($arg),*) },
                        None => $crate::hook::fail(libc::ENOSYS),
                    }
                }
            )*
        }

        #[allow(clippy::too_many_arguments, reason = "the C library's signatures")]
        #[allow(unused_qualifications, reason = "`ours::read` says more than `read`")]
        pub(crate) mod ours {
            use super::*;
            $(
                $(#[$meta])*
                pub(crate) unsafe fn $name(
                    $luna: &'static $crate::libluna::Libluna, $($arg: $ty),*
                ) -> Option<$ret> $body
            )*
        }

        mod exported {
            use super::*;
            $(
                $(#[$meta])*
                #[unsafe(no_mangle)]
                unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
                    if let Some(luna) = $crate::libluna::active() {
                        // SAFETY: the caller's arguments, unchanged.
                        if let Some(result) = unsafe { ours::$name(luna, $($arg),*) } {
                            return result;
                        }
                    }
                    // SAFETY: as above.
                    unsafe { real::$name($($arg),*) }
                }
            )*
        }
    };
}
pub(crate) use hooks;
