#if canImport(StoreKit)
    import StoreKit
    import SwiftUI
    import Tollgate

    // For Apple's systems only: compiled by us against stubs, and not run.

    /// What is used up, until when, and what can be bought. A purchase is the plan of the server before the sheet is closed.
    struct Paywall: View {
        let tollgate: TollgateClient
        let refusal: TollgateError
        @Environment(\.dismiss) private var dismiss
        @State private var products: [Product] = []
        @State private var problem: String?

        var body: some View {
            VStack {
                Text(refusal.message)
                if let day = refusal.limit?.resetsAt { Text("It is yours again \(day, format: .relative(presentation: .named)).") }
                ForEach(products) { product in
                    Button("\(product.displayName), \(product.displayPrice)") { Task { await buy(product) } }
                }
                Button("Restore purchases") { Task { try? await tollgate.restorePurchases() } }
                if let problem { Text(problem).foregroundStyle(.red) }
            }
            .padding()
            .task { products = (try? await Product.products(for: ["com.example.pro.monthly"])) ?? [] }
        }

        private func buy(_ product: Product) async {
            do {
                if try await tollgate.purchase(product) != nil { dismiss() }
            } catch {
                problem = error.localizedDescription
            }
        }
    }
#endif
