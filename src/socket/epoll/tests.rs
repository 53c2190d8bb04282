pub(crate) fn fake_level(
    id: crate::socket::description::DescriptionId,
) -> Option<crate::stack::Ready> {
    crate::socket::runtime::fake::level(id)
}
